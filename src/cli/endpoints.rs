//! The endpoints, as they are configured now: all, or no more than a command needs.

use std::collections::BTreeSet;

use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use crate::config::Config;
use crate::history::Configured;
use crate::model::Reloadable;
use crate::platform::{Directory, Refresh};
use crate::run;
use crate::store::{Result, Store};

/// Reads endpoints. Those with faults are logged by the daemon; the commands that need to show them print them.
pub(super) struct Endpoints(Refresh);

impl Endpoints {
    pub(super) fn new(store: &Store, config: &Config) -> Self {
        let directory = Directory::default();
        directory.switch_email(config.email.smtp_url.is_some());
        Self(Refresh {
            store: store.clone(),
            directory,
            policy: Reloadable::new(run::endpoint_policy(config)),
        })
    }

    pub(super) async fn all(&self) -> Result<Directory> {
        self.0.read_once().with_subscriber(NoSubscriber::new()).await?;
        Ok(self.0.directory.clone())
    }

    /// Those of the organization, and of each that has an endpoint of that id, `ORGANIZATION/ENDPOINT` or the id alone.
    pub(super) async fn named(&self, endpoint: Option<&str>, organization: Option<&str>) -> Result<Directory> {
        let of_endpoint = endpoint
            .and_then(|name| name.split_once('/'))
            .map(|(organization, _)| organization);
        let organizations = of_endpoint.into_iter().chain(organization).map(str::to_owned);
        let directory = self.of(&organizations.collect()).await?;
        if let Some(id) = endpoint.filter(|name| !name.contains('/')) {
            self.0.read_endpoint(id).with_subscriber(NoSubscriber::new()).await?;
        }
        Ok(directory)
    }
}

impl Configured for Endpoints {
    async fn of(&self, organizations: &BTreeSet<String>) -> Result<Directory> {
        let read = self.0.read_organizations(organizations);
        read.with_subscriber(NoSubscriber::new()).await?;
        Ok(self.0.directory.clone())
    }
}
