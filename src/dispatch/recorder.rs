//! Results, written in groups: while one write is under way the next results gather.

use std::time::Duration;

use bson::DateTime;
use tokio::sync::mpsc;

use super::window::{Job, Place, Window};
use super::worker::Attempted;
use crate::delivery::RetryPolicy;
use crate::kill_point;
use crate::model::{Clock, Live, Outcome};
use crate::outbox::{Claimed, Group, Next, Outbox, Verdict, transition};
use crate::store::Stopped;

/// At most so many results in one write.
const GROUP: usize = 1000;

/// How long the first result of a group waits for more: a write costs the database more than a result in it.
const LINGER: Duration = Duration::from_millis(5);

/// Told of every result, before it is written.
pub trait Observer: Send + Sync + 'static {
    /// `delivery` was attempted with this outcome, and this is what becomes of it.
    fn attempted(&self, delivery: &Claimed, outcome: &Outcome, next: &Next);
}

/// Writes results.
pub struct Recorder<O> {
    outbox: Outbox,
    window: Window,
    clock: Clock,
    policy: Live<RetryPolicy>,
    observer: O,
    recorded: mpsc::UnboundedSender<Group>,
    results: mpsc::UnboundedReceiver<Attempted>,
}

impl<O: Observer> Recorder<O> {
    /// A recorder, and where to send results. What it has written it hands to `recorded`.
    pub fn new(
        outbox: Outbox,
        window: Window,
        clock: Clock,
        policy: Live<RetryPolicy>,
        observer: O,
        recorded: mpsc::UnboundedSender<Group>,
    ) -> (Self, mpsc::UnboundedSender<Attempted>) {
        let (sender, results) = mpsc::unbounded_channel();
        (
            Self {
                outbox,
                window,
                clock,
                policy,
                observer,
                recorded,
                results,
            },
            sender,
        )
    }

    /// Writes results until every sender is gone and all is written.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a database that is away; the claims are then freed by the next daemon.
    pub async fn run(mut self) -> Result<(), Stopped> {
        let mut attempted = Vec::with_capacity(GROUP);
        while self.gather(&mut attempted).await > 0 {
            let now = self.clock.now();
            let (verdicts, places) = self.judge(&mut attempted, now);
            let group = self.outbox.record(&verdicts, now).await?;
            kill_point::reach("recorded");
            if let Some(group) = group {
                // Who counts lives as long as there is something to count.
                let _ = self.recorded.send(group);
            }
            self.note_retries(&verdicts);
            drop(places);
        }
        Ok(())
    }

    /// Waits for results; `0` when none will come any more.
    async fn gather(&mut self, attempted: &mut Vec<Attempted>) -> usize {
        let first = self.results.recv_many(attempted, GROUP).await;
        if first > 0 && first < GROUP && !self.results.is_closed() {
            tokio::time::sleep(LINGER).await;
            while attempted.len() < GROUP
                && let Ok(result) = self.results.try_recv()
            {
                attempted.push(result);
            }
        }
        attempted.len()
    }

    /// Judges the results; the places are freed when the verdicts are written.
    fn judge(&self, attempted: &mut Vec<Attempted>, now: DateTime) -> (Vec<Verdict>, Vec<Place>) {
        let policy = self.policy.get();
        self.note_health(attempted);
        attempted
            .drain(..)
            .map(|(Job { delivery, place }, outcome)| {
                let next = transition(&delivery, &outcome, now, &policy, fastrand::f64());
                self.observer.attempted(&delivery, &outcome, &next);
                (Verdict { delivery, next }, place)
            })
            .unzip()
    }

    /// Tells the breakers.
    fn note_health(&self, attempted: &[Attempted]) {
        for (job, outcome) in attempted {
            match outcome {
                Outcome::Delivered { .. } | Outcome::Gone(_) => self.window.succeeded(&job.delivery.endpoint),
                Outcome::Failed(_) => self.window.failed(&job.delivery.endpoint),
                // Says nothing of the endpoint.
                Outcome::Refused(_) | Outcome::Cancelled { .. } | Outcome::Interrupted => {}
            }
        }
    }

    /// A retry may be due before the feeder's next look.
    fn note_retries(&self, verdicts: &[Verdict]) {
        if verdicts
            .iter()
            .any(|verdict| matches!(verdict.next, Next::Retry { .. } | Next::Released))
        {
            self.window.bell().notify_one();
        }
    }
}
