//! One scan: page by page, what has expired is written to the outbox and marked, and goes out.

mod page;
mod read;
mod trigger;
pub(super) mod unmarkable;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::DateTime;
use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::model::{Clock, Reloadable};
use crate::outbox::{Class, NewDelivery, Outbox};
use crate::platform::{Directory, Event, badge_user};
use crate::store::{Stopped, Store};

pub use read::expired;

use super::Rejections;
use super::attempts::Pace;
use read::Query;
use unmarkable::{UnmarkableSet, Unstorable};

pub use trigger::{Extent, ScanTrigger};

/// What a scan needs.
#[derive(Clone)]
pub struct Scan {
    /// Holds the platform's collections and ours.
    pub store: Store,
    /// Where events go.
    pub outbox: Outbox,
    /// Who wants them.
    pub directory: Directory,
    /// Tells the database's time.
    pub clock: Clock,
    /// `[scan]` as it is now.
    pub config: Reloadable<config::Scan>,
    /// Counts what can't be an event.
    pub rejections: Rejections,
    /// Ends a scan between two pages.
    pub stop: CancellationToken,
    /// How much goes into a transaction.
    pub(crate) pace: Pace,
    /// What can't be marked.
    pub(crate) unmarkable: UnmarkableSet,
    /// What can't be stored.
    pub(crate) unstorable: Unstorable,
}

/// What a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Certificates that had expired with the reminder unsent.
    pub found: usize,
    /// Of these, recorded as rejected.
    pub rejected: usize,
    /// Deliveries that are new in the outbox.
    pub deliveries: usize,
    /// Deliveries that were there already.
    pub known: usize,
    /// How long it took.
    pub took: Duration,
}

impl Scan {
    /// What scans, until `stop`.
    pub fn new(
        store: Store,
        outbox: Outbox,
        directory: Directory,
        clock: Clock,
        config: Reloadable<config::Scan>,
        rejections: Rejections,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            outbox,
            directory,
            clock,
            config,
            rejections,
            stop,
            pace: Pace::default(),
            unmarkable: UnmarkableSet::default(),
            unstorable: Unstorable::default(),
        }
    }

    /// Scans once: everything within `extent` whose `expires` has passed at `now`.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first; nothing is lost, the next scan goes on.
    pub async fn run_once(&self, extent: Extent, now: DateTime) -> Result<Report, Stopped> {
        let began = Instant::now();
        let config = self.config.get();
        let index = || read::index(&self.store, config.ensure_indexes);
        let index = self.store.persist("look for the scan's index", index).await?;
        let queries = match extent {
            Extent::All | Extent::AllForOperator => Query::all(now, &config, index.as_deref()),
            Extent::Since(since) => Query::since(since, now, &config, index.as_deref()),
        };
        let mut report = Report::default();
        for mut query in queries {
            let before = report.found;
            while !self.stop.is_cancelled() && self.take_page(&mut query, &mut report).await? {
                // A full page is seldom the last.
                if report.found - before >= config.batch_size as usize {
                    self.take_pages_in_pairs(&query, &mut report).await;
                }
            }
        }
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        report.took = began.elapsed();
        Ok(report)
    }

    /// Counts per organization what a scan at `now` would send: `(organization, certificates, deliveries)`, by organization. Writes nothing.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn dry_run(&self, now: DateTime) -> crate::store::Result<Vec<(String, usize, usize)>> {
        let mut counts = BTreeMap::<String, (usize, usize)>::new();
        let index = read::index(&self.store, false).await?;
        for query in Query::all(now, &self.config.get(), index.as_deref()) {
            let mut cursor = query.cursor(&self.store).await?;
            while let Some(document) = cursor.try_next().await? {
                let (organization, wanting) = match badge_user::expired(&document, now) {
                    Ok(event) => (event.organization.clone(), self.deliveries(&event).len()),
                    Err(_) => ("(rejected)".into(), 0),
                };
                let (certificates, deliveries) = counts.entry(organization).or_default();
                (*certificates, *deliveries) = (*certificates + 1, *deliveries + wanting);
            }
        }
        Ok(counts
            .into_iter()
            .map(|(organization, (certificates, deliveries))| (organization, certificates, deliveries))
            .collect())
    }

    fn deliveries(&self, event: &Event) -> Vec<NewDelivery> {
        deliveries(&self.directory, event)
    }
}

/// One delivery for each endpoint that wants the event.
pub fn deliveries(directory: &Directory, event: &Event) -> Vec<NewDelivery> {
    let wanting = directory.wanting(&event.organization, event.message.event_type);
    let delivery = |endpoint| NewDelivery {
        message: event.message.clone(),
        endpoint,
        class: Class::Live,
        certificate: event.certificate.clone(),
        occurred_at: event.occurred_at,
    };
    wanting.into_iter().map(delivery).collect()
}
