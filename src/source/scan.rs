//! One scan: read what has expired, write it to the outbox, mark it, let it go.

mod bell;
mod portion;
mod read;
mod settle;

use std::time::{Duration, Instant};

use bson::DateTime;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cluster::Cluster;
use crate::config;
use crate::model::EventType;
use crate::model::{Clock, Live};
use crate::outbox::{NewDelivery, Outbox, Rejected};
use crate::platform::{Directory, Event, Unfit, badge_user};
use crate::store::{Stopped, Store};

use portion::Portions;

pub use bell::ScanBell;

/// What a scan needs.
#[derive(Clone)]
pub struct Scan {
    /// The database.
    pub store: Store,
    /// Where events go.
    pub outbox: Outbox,
    /// Who wants them.
    pub directory: Directory,
    /// Whose leftovers are to be settled.
    pub cluster: Cluster,
    /// The time.
    pub clock: Clock,
    /// `[scan]` as it is now.
    pub config: Live<config::Scan>,
    /// Ends a scan between two batches.
    pub stop: CancellationToken,
}

/// What a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Certificates that had expired with the reminder unsent.
    pub found: usize,
    /// Of these, renewed, re-dated or deleted before they were marked: nothing was sent.
    pub renewed: usize,
    /// Of these, recorded as rejected.
    pub rejected: usize,
    /// Deliveries that are new in the outbox.
    pub deliveries: usize,
    /// Deliveries that were there already.
    pub known: usize,
    /// Leftovers of a daemon that died between outbox and mark, settled by this scan.
    pub settled: usize,
    /// How long it took.
    pub took: Duration,
}

impl Scan {
    /// Scans once: everything whose `expires` has passed at `now`.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first; nothing is lost, the next scan goes on.
    pub async fn run_once(&self, now: DateTime) -> Result<Report, Stopped> {
        let began = Instant::now();
        let settled = settle::settle(&self.store, &self.outbox, &self.cluster).await?;
        let mut report = Report {
            settled,
            ..Report::default()
        };
        let batches = read::expired(&self.store, &self.config.get(), now);
        let mut portions = Portions::new(batches);
        let mut staged = None;
        loop {
            // One portion is marked and let go while the next waits for room and is written to the outbox.
            let (next, finished) = tokio::join!(self.stage_next(&mut portions), self.finish(staged, &mut report));
            finished?;
            staged = next?;
            if staged.is_none() {
                break;
            }
        }
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        report.took = began.elapsed();
        Ok(report)
    }

    /// Counts per organization what a scan at `now` would send: `(owner, certificates, deliveries)`, by owner. Writes nothing.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn dry_run(&self, now: DateTime) -> Result<Vec<(String, usize, usize)>, Stopped> {
        let mut counts = std::collections::BTreeMap::<String, (usize, usize)>::new();
        let config = config::Scan {
            ensure_indexes: false,
            ..(*self.config.get()).clone()
        };
        let mut batches = read::expired(&self.store, &config, now);
        while let Some(batch) = batches.recv().await {
            for document in batch? {
                let (owner, wanting) = match badge_user::expired(&document, now) {
                    Ok(event) => (event.owner.clone(), self.deliveries(&event).len()),
                    Err(_) => ("(rejected)".into(), 0),
                };
                let count = counts.entry(owner).or_default();
                *count = (count.0 + 1, count.1 + wanting);
            }
        }
        Ok(counts
            .into_iter()
            .map(|(owner, (certificates, deliveries))| (owner, certificates, deliveries))
            .collect())
    }

    fn deliveries(&self, event: &Event) -> Vec<NewDelivery> {
        deliveries(&self.directory, event)
    }
}

/// One delivery for each endpoint that wants the event.
pub fn deliveries(directory: &Directory, event: &Event) -> Vec<NewDelivery> {
    let wanting = directory.wanting(&event.owner, event.message.event_type);
    let delivery = |endpoint| NewDelivery {
        message: event.message.clone(),
        endpoint,
        badge_user: event.badge_user.clone(),
        occurred_at: event.occurred_at,
    };
    wanting.into_iter().map(delivery).collect()
}

/// Notes a certificate that can't be an event, with one WARN.
pub(super) fn reject(unfit: &Unfit, event_type: EventType) -> Rejected {
    warn!(
        event_id = %unfit.event_id, reason = %unfit.reason,
        "a certificate can't be an event: recorded as rejected, nothing is sent"
    );
    Rejected {
        event_type,
        badge_user: unfit.badge_user.clone(),
        event_id: unfit.event_id.clone(),
        reason: unfit.reason.clone(),
    }
}
