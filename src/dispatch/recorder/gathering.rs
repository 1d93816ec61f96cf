//! Results that are not recorded yet, per batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Drained;
use crate::outbox::{Batch, Next, Settlement};

/// How long results of a batch wait for the batch's end.
const LINGER: Duration = Duration::from_millis(500);

/// Results in one transaction, at most.
const GROUP: usize = 1024;

#[derive(Default)]
pub(super) struct Gathering {
    batches: HashMap<Arc<str>, Results>,
    count: usize,
}

/// Results of one batch.
struct Results {
    since: Instant,
    at_once: bool,
    settlements: Vec<Settlement>,
}

impl Gathering {
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

    /// Takes out what must be recorded now: everything if `all` is wanted, or more than `most` results wait.
    pub(super) fn take(&mut self, all: bool, most: usize, drained: &Drained) -> Vec<Settlement> {
        let (now, all) = (Instant::now(), all || self.count > most);
        let mut ready: Vec<(Instant, Arc<str>)> = self
            .batches
            .iter()
            .filter(|(_, results)| all || results.are_due(now, drained))
            .map(|(id, results)| (results.since, Arc::clone(id)))
            .collect();
        ready.sort();
        let mut taken = Vec::new();
        for (_, id) in ready {
            if taken.len() >= GROUP {
                break;
            }
            let settlements = self.batches.remove(&id).map(|results| results.settlements);
            taken.extend(settlements.into_iter().flatten());
        }
        self.count -= taken.len();
        taken
    }
}

impl Results {
    /// Whether all of the batch that is in memory has its result. The first delivery to an endpoint goes out alone: its success
    /// waits for the others, which come now that the endpoint is known to answer.
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
