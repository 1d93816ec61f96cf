//! One scan: page by page, what has expired is written to the outbox and marked, and goes out.

mod locked;
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
use super::transaction_size::TransactionSize;
use locked::LockedSet;
use read::Query;
use unmarkable::{UnmarkableSet, Unstorable};

pub use trigger::{Extent, ScanTrigger};

/// What a scan needs.
#[derive(Clone)]
pub struct Scan {
    pub store: Store,
    pub outbox: Outbox,
    pub directory: Directory,
    pub clock: Clock,
    /// `[scan]` as it is now.
    pub config: Reloadable<config::Scan>,
    pub rejections: Rejections,
    /// Ends a scan between two pages.
    pub stop: CancellationToken,
    pub(crate) transaction_size: TransactionSize,
    pub(crate) unmarkable: UnmarkableSet,
    pub(crate) unstorable: Unstorable,
    pub(crate) locked: LockedSet,
}

/// What a scan would send for one organization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WouldSend {
    /// Certificates that have expired with the reminder unsent.
    pub certificates: usize,
    /// Deliveries to the organization's endpoints.
    pub deliveries: usize,
}

/// What a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Certificates that had expired with the reminder unsent.
    pub found: usize,
    /// Certificates among them that were recorded as rejected.
    pub rejected: usize,
    /// Deliveries that are new in the outbox.
    pub deliveries: usize,
    /// Deliveries that were there already.
    pub known: usize,
    /// Certificates that were left out, because somebody keeps them locked.
    pub left_out: usize,
    pub took: Duration,
}

impl Scan {
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
            transaction_size: TransactionSize::default(),
            unmarkable: UnmarkableSet::default(),
            unstorable: Unstorable::default(),
            locked: LockedSet::default(),
        }
    }

    /// Scans once: everything of `extent` whose `expires` has passed at `now`.
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
        let is_whole = !matches!(extent, Extent::Since(_));
        if is_whole {
            self.locked.scan_begins();
        }
        let mut report = Report::default();
        for mut query in queries {
            let before = report.found;
            while !self.stop.is_cancelled() && self.scan_page(&mut query, &mut report).await? {
                // A full page is seldom the last.
                if report.found - before >= config.batch_size as usize {
                    self.scan_pages_in_pairs(&query, &mut report).await;
                }
            }
        }
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        if is_whole {
            self.locked.scan_ended();
        }
        report.took = began.elapsed();
        report.left_out = self.locked.len();
        Ok(report)
    }

    /// Waits until it is time to scan again for what was left out, because somebody kept it locked; for ever if nothing was.
    pub async fn wait_for_locked(&self) {
        match self.locked.due() {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Counts what a scan at `now` would send, by organization. Writes nothing.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn dry_run(&self, now: DateTime) -> crate::store::Result<BTreeMap<String, WouldSend>> {
        let mut counts = BTreeMap::<String, WouldSend>::new();
        let index = read::index(&self.store, false).await?;
        for query in Query::all(now, &self.config.get(), index.as_deref()) {
            let mut cursor = query.cursor(&self.store).await?;
            while let Some(document) = cursor.try_next().await? {
                let (organization, deliveries) = match badge_user::expired(&document, now) {
                    Ok(event) => (event.organization.clone(), self.deliveries(&event).len()),
                    Err(_) => ("(rejected)".into(), 0),
                };
                let count = counts.entry(organization).or_default();
                count.certificates += 1;
                count.deliveries += deliveries;
            }
        }
        Ok(counts)
    }

    fn deliveries(&self, event: &Event) -> Vec<NewDelivery> {
        deliveries(&self.directory, event)
    }
}

/// One delivery for each endpoint that wants the event.
pub fn deliveries(directory: &Directory, event: &Event) -> Vec<NewDelivery> {
    let wanting = directory.wanting(&event.organization, event.event_type);
    let delivery = |endpoint| NewDelivery {
        message: event.message.clone(),
        endpoint,
        class: Class::Live,
        certificate: event.certificate.clone(),
        occurred_at: event.occurred_at,
    };
    wanting.into_iter().map(delivery).collect()
}
