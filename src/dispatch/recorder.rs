//! Records results, many in one transaction: successes of a batch wait until all of its deliveries in memory have a result, at most half
//! a second; failures, batches of one delivery and results of endpoints that are drained are recorded at once.

mod contended_results;
mod pending_results;
mod uncounted_results;
mod write_results;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::DateTime;
use tokio::sync::mpsc;

use super::endpoint_set::EndpointSet;
use super::queue::DeliveryQueue;
use super::waiting::Waiting;
use super::worker::{Attempted, sleep_until};
use crate::failpoint;
use crate::model::{Clock, Outcome, Reloadable, later};
use crate::outbox::{Delivery, Next, Outbox, PastAttempts, Settlement, transition};
use crate::sender::RetryPolicy;
use crate::store::{Pauses, Stopped, Store};

use contended_results::ContendedResults;
use pending_results::PendingResults;
use uncounted_results::UncountedResults;
use write_results::ResultSet;

/// Is called with every result, before it is recorded.
pub trait Observer: Send + Sync + 'static {
    /// `delivery` was attempted with this outcome, and this is what becomes of it.
    fn attempted(&self, delivery: &Delivery, outcome: &Outcome, next: &Next);
}

/// Since when an endpoint is served again after its deliveries had to wait.
pub type ServedSince = dyn Fn(&crate::model::EndpointKey) -> Option<DateTime> + Send + Sync;

/// Whether results of that endpoint must be recorded at once, because another instance waits for it.
pub type Drained = dyn Fn(&crate::model::EndpointKey) -> bool + Send + Sync;

pub type TellsOf = dyn Fn(&crate::model::EndpointKey) -> bool + Send + Sync;

pub struct RecorderParts<O> {
    pub outbox: Outbox,
    pub store: Store,
    pub queue: DeliveryQueue,
    /// Gets the retries.
    pub waiting: Waiting,
    pub clock: Clock,
    pub policy: Reloadable<RetryPolicy>,
    pub observer: O,
    pub served_since: Box<ServedSince>,
    pub drained: Box<Drained>,
    /// Whether the platform is told of the endpoint's dead letters.
    pub tells_of: Box<TellsOf>,
    /// Endpoints whose dead letters it must be told of.
    pub died: EndpointSet,
    /// Notified when results of an endpoint that is drained are recorded.
    pub recorded: Arc<tokio::sync::Notify>,
}

pub struct Recorder<O> {
    parts: RecorderParts<O>,
    results: mpsc::UnboundedReceiver<Attempted>,
    pending: PendingResults,
    contended: ContendedResults,
    /// When something was last recorded: what MongoDB refuses shortly after is refused for its own content.
    succeeded: Option<Instant>,
    /// Batches whose results MongoDB refuses.
    refused: Pauses<Arc<str>>,
    uncounted: UncountedResults,
}

impl<O: Observer> Recorder<O> {
    /// A recorder, and where to send results.
    pub fn new(parts: RecorderParts<O>) -> (Self, mpsc::UnboundedSender<Attempted>) {
        let (sender, results) = mpsc::unbounded_channel();
        let recorder = Self {
            parts,
            results,
            pending: PendingResults::default(),
            contended: ContendedResults::new(),
            succeeded: None,
            refused: Pauses::default(),
            uncounted: UncountedResults::default(),
        };
        (recorder, sender)
    }

    /// Records results until every sender is dropped and all is written.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable; the deliveries are then sent again.
    pub async fn run(mut self) -> Result<(), Stopped> {
        let mut attempted = Vec::new();
        loop {
            let goes_on = self.receive(&mut attempted).await;
            self.decide(attempted.drain(..));
            let capacity = self.parts.queue.capacity();
            let drained = &self.parts.drained;
            let ready = self.pending.remove_ready(!goes_on, capacity / 4, &**drained);
            let mut sets = self.contended.remove_due();
            if !ready.is_empty() {
                sets.insert(0, ResultSet::new(ready));
            }
            if !sets.is_empty() {
                self.record(sets).await?;
            } else if !goes_on && !self.contended_is_due().await? {
                self.uncounted.log_all();
                return Ok(());
            }
        }
    }

    /// Waits until contended results are tried again; `false` if there are none.
    async fn contended_is_due(&self) -> Result<bool, Stopped> {
        let Some(deadline) = self.contended.deadline() else {
            return Ok(false);
        };
        tokio::select! {
            () = self.parts.store.stopped() => Err(Stopped),
            () = tokio::time::sleep_until(deadline) => Ok(true),
        }
    }

    /// Waits for results, or until those that wait must be recorded; `false` when none will come any more.
    async fn receive(&mut self, attempted: &mut Vec<Attempted>) -> bool {
        let deadlines = [self.pending.deadline(), self.contended.deadline()];
        let received = self.results.recv_many(attempted, 1024);
        let goes_on = tokio::select! {
            received = received => received > 0,
            () = sleep_until(deadlines.into_iter().flatten().min()) => true,
        };
        while let Ok(more) = self.results.try_recv() {
            attempted.push(more);
        }
        goes_on
    }

    /// Decides what becomes of deliveries.
    fn decide(&mut self, attempted: impl Iterator<Item = Attempted>) {
        let now = self.parts.clock.now();
        let policy = self.parts.policy.get();
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
            // The first death counts.
            let is_death = matches!(next, Next::Dead { .. }) && !delivery.redriven;
            self.pending.add(Settlement {
                must_tell_death: is_death && (self.parts.tells_of)(&delivery.endpoint),
                delivery,
                at: now,
                ms: ms(outcome.elapsed()),
                connect_ms: outcome.connect().map(ms),
                next,
                paused_until: pause.map(|pause| later(now, pause)),
            });
        }
    }

    /// Records these results, however long that takes, but for those that meet conflicts; then they leave memory.
    async fn record(&mut self, sets: Vec<ResultSet>) -> Result<(), Stopped> {
        let drained = sets
            .iter()
            .flat_map(ResultSet::endpoints)
            .any(|endpoint| (self.parts.drained)(endpoint));
        self.write(sets).await?;
        self.contended.end_episodes();
        failpoint::reach("recorded");
        if drained {
            self.parts.recorded.notify_one();
        }
        Ok(())
    }

    /// The deliveries of these results leave memory: the results are recorded, or no longer needed.
    fn done(&self, settlements: &[Settlement]) {
        self.parts
            .queue
            .recorded(settlements.iter().map(|settlement| &settlement.delivery));
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
