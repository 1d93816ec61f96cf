//! What the workers send with: the endpoint as it is configured at the time of the attempt, and the client.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::delivery::Client;
use crate::dispatch::Deliver;
use crate::mail::Mailer;
use crate::model::{Clock, Failure, Live, Outcome};
use crate::outbox::Claimed;
use crate::platform::{Directory, Found};
use crate::store::Store;

/// Sends deliveries.
#[derive(Clone)]
pub struct Courier {
    /// Who the endpoints are now.
    pub directory: Directory,
    /// What sends.
    pub client: Live<Client>,
    /// What sends e-mails, if anything does.
    pub mailer: Live<Option<Mailer>>,
    /// Where users' addresses are.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Whose lanes are whose now.
    pub cluster: Cluster,
}

impl Deliver for Courier {
    async fn attempt(&self, delivery: &Claimed) -> Outcome {
        if !self.cluster.owns(&delivery.endpoint) {
            // The lane has moved to another daemon since this was claimed.
            return Outcome::Interrupted;
        }
        match self.directory.find(&delivery.endpoint) {
            Found::Endpoint(endpoint) if endpoint.enabled => {
                self.client
                    .get()
                    .attempt(&endpoint, &delivery.message, self.clock.now())
                    .await
            }
            Found::Endpoint(_) => Outcome::Cancelled {
                reason: "the endpoint was disabled".into(),
            },
            Found::Email { .. } => self.remind(delivery).await,
            Found::Unknown => Outcome::Cancelled {
                reason: "the endpoint was deleted".into(),
            },
            // Not cancelled: it may be mended within the retry window.
            Found::Refused(reason) => Outcome::Failed(Failure {
                status: None,
                reason: format!("endpoint out of service: {reason}"),
                retry_after: None,
                elapsed: Duration::ZERO,
            }),
        }
    }
}

impl Courier {
    async fn remind(&self, delivery: &Claimed) -> Outcome {
        match &*self.mailer.get() {
            Some(mailer) => mailer.attempt(&self.store, &delivery.message, self.clock.now()).await,
            None => Outcome::Cancelled {
                reason: "e-mails are switched off".into(),
            },
        }
    }
}
