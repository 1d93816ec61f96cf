//! Results, recorded in groups: those of a batch that is not at its end wait for it or for half a second; failures, single
//! deliveries and what is drained go at once.

mod gathering;
mod lost_counts;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::DateTime;
use tokio::sync::mpsc;

use super::queue::DeliveryQueue;
use super::waiting::Waiting;
use super::worker::Attempted;
use crate::failpoint;
use crate::model::{Clock, Outcome, Reloadable};
use crate::outbox::{Delivery, Next, Outbox, PastAttempts, Settlement, later, transition};
use crate::sender::RetryPolicy;
use crate::store::{Pauses, Stopped, Store};

use gathering::Gathering;
use lost_counts::LostCounts;

/// Told of every result, before it is recorded.
pub trait Observer: Send + Sync + 'static {
    /// `delivery` was attempted with this outcome, and this is what becomes of it.
    fn attempted(&self, delivery: &Delivery, outcome: &Outcome, next: &Next);
}

/// Since when an endpoint is served again after its deliveries had to wait.
pub type ServedSince = dyn Fn(&crate::model::EndpointKey) -> Option<DateTime> + Send + Sync;

/// Whether results of that endpoint are to be recorded at once, because another instance waits for it.
pub type Drained = dyn Fn(&crate::model::EndpointKey) -> bool + Send + Sync;

/// What the recorder needs.
pub struct RecorderParts<O> {
    pub outbox: Outbox,
    /// How to wait for MongoDB.
    pub store: Store,
    pub queue: DeliveryQueue,
    /// Hears of retries.
    pub waiting: Waiting,
    pub clock: Clock,
    /// Attempts and retry period.
    pub policy: Reloadable<RetryPolicy>,
    /// Told of every result.
    pub observer: O,
    /// See [`ServedSince`].
    pub served_since: Box<ServedSince>,
    /// See [`Drained`].
    pub drained: Box<Drained>,
    /// Told when results of an endpoint that is drained are recorded.
    pub recorded: Arc<tokio::sync::Notify>,
}

/// Records results.
pub struct Recorder<O> {
    parts: RecorderParts<O>,
    results: mpsc::UnboundedReceiver<Attempted>,
    gathering: Gathering,
    /// When something was last recorded: what MongoDB refuses then is not everybody's.
    succeeded: Option<Instant>,
    /// Batches whose results MongoDB refuses.
    refused: Pauses<Arc<str>>,
    lost: LostCounts,
}

impl<O: Observer> Recorder<O> {
    /// A recorder, and where to send results.
    pub fn new(parts: RecorderParts<O>) -> (Self, mpsc::UnboundedSender<Attempted>) {
        let (sender, results) = mpsc::unbounded_channel();
        let recorder = Self {
            parts,
            results,
            gathering: Gathering::default(),
            succeeded: None,
            refused: Pauses::default(),
            lost: LostCounts::default(),
        };
        (recorder, sender)
    }

    /// Records results until every sender is gone and all is written.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable; the deliveries are then sent again.
    pub async fn run(mut self) -> Result<(), Stopped> {
        let mut attempted = Vec::new();
        loop {
            let open = self.gather(&mut attempted).await;
            self.judge(attempted.drain(..));
            let capacity = self.parts.queue.capacity();
            let drained = &self.parts.drained;
            let ready = self.gathering.take(!open, capacity / 4, &**drained);
            if !ready.is_empty() {
                self.record(ready).await?;
            } else if !open {
                self.lost.tell_all();
                return Ok(());
            }
        }
    }

    /// Waits for results, or until those that wait are to be recorded; `false` when none will come any more.
    async fn gather(&mut self, attempted: &mut Vec<Attempted>) -> bool {
        let deadline = self.gathering.deadline();
        let received = self.results.recv_many(attempted, 1024);
        let open = match deadline {
            Some(deadline) => tokio::select! {
                received = received => received > 0,
                () = tokio::time::sleep_until(deadline) => true,
            },
            None => received.await > 0,
        };
        while let Ok(more) = self.results.try_recv() {
            attempted.push(more);
        }
        open
    }

    /// Decides what becomes of deliveries.
    fn judge(&mut self, attempted: impl Iterator<Item = Attempted>) {
        let (now, policy) = (self.parts.clock.now(), self.parts.policy.get());
        for Attempted {
            delivery,
            outcome,
            pause,
        } in attempted
        {
            let past = PastAttempts {
                attempt: delivery.attempt,
                first_attempt_at: delivery.first_attempt_at,
                served_since: (self.parts.served_since)(&delivery.endpoint),
                redriven: delivery.redriven,
            };
            let Some(next) = transition(&past, &outcome, now, &policy, fastrand::f64()) else {
                continue;
            };
            self.parts.observer.attempted(&delivery, &outcome, &next);
            self.gathering.add(Settlement {
                delivery,
                at: now,
                ms: ms(outcome.elapsed()),
                connect_ms: outcome.connect().map(ms),
                next,
                paused_until: pause.map(|pause| later(now, pause)),
            });
        }
    }

    /// Records these results, whatever it takes; they leave memory then.
    async fn record(&mut self, settlements: Vec<Settlement>) -> Result<(), Stopped> {
        let drained = settlements
            .iter()
            .any(|settlement| (self.parts.drained)(&settlement.delivery.endpoint));
        self.write(settlements).await?;
        failpoint::reach("recorded");
        if drained {
            self.parts.recorded.notify_one();
        }
        Ok(())
    }

    /// The deliveries of these results leave memory: the results are recorded, or nobody needs them.
    fn done(&self, settlements: &[Settlement]) {
        self.parts
            .queue
            .recorded(settlements.iter().map(|settlement| &settlement.delivery));
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
