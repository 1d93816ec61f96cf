//! Results that are not recorded yet, by batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Drained;
use crate::outbox::{Batch, Next, Settlement};

/// How long results of a batch wait for the other results of the batch.
const LINGER: Duration = Duration::from_millis(500);

/// Results in one transaction, at most.
const AT_ONCE: usize = 1024;

#[derive(Default)]
pub(super) struct PendingResults {
    batches: HashMap<Arc<str>, Results>,
    count: usize,
}

/// Results of one batch.
struct Results {
    since: Instant,
    at_once: bool,
    settlements: Vec<Settlement>,
}

impl PendingResults {
    pub(super) fn add(&mut self, settlement: Settlement) {
        let batch = &settlement.delivery.batch;
        let at_once = batch.size == 1 || !matches!(settlement.next, Next::Delivered { .. });
        let results = self.batches.entry(Arc::clone(&batch.id)).or_insert_with(|| Results {
            since: Instant::now(),
            at_once: false,
            settlements: Vec::new(),
        });
        results.at_once |= at_once;
        results.settlements.push(settlement);
        self.count += 1;
    }

    /// When results have waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.batches.values().map(|results| results.since + LINGER).min()
    }

    /// Removes what must be recorded now, the earliest first: everything if `all` is wanted, or more than `most` results wait.
    pub(super) fn remove_ready(&mut self, all: bool, most: usize, drained: &Drained) -> Vec<Settlement> {
        let now = Instant::now();
        let all = all || self.count > most;
        let mut due: Vec<(Instant, Arc<str>)> = self
            .batches
            .iter()
            .filter(|(_, results)| all || results.are_due(now, drained))
            .map(|(id, results)| (results.since, Arc::clone(id)))
            .collect();
        due.sort();
        let mut ready = Vec::new();
        for (_, id) in due {
            if ready.len() >= AT_ONCE {
                break;
            }
            let settlements = self.batches.remove(&id).map(|results| results.settlements);
            ready.extend(settlements.into_iter().flatten());
        }
        self.count -= ready.len();
        ready
    }
}

impl Results {
    /// Whether all of the batch's deliveries in memory have a result. The first delivery to an endpoint goes out alone; its success
    /// makes the endpoint known to answer, and waits for the results of the others, which go out then.
    fn is_complete(&self, batch: &Batch) -> bool {
        let results = self.settlements.len();
        let is_first_of_several = results == 1 && batch.open() > 1;
        batch.in_memory() as usize <= results && !is_first_of_several
    }

    fn are_due(&self, now: Instant, drained: &Drained) -> bool {
        let Some(first) = self.settlements.first() else {
            return true;
        };
        self.at_once
            || now >= self.since + LINGER
            || self.is_complete(&first.delivery.batch)
            || drained(&first.delivery.endpoint)
    }
}
