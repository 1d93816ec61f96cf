//! Workers: each sends one delivery after another, as long as the queue has one that may go out.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::queue::DeliveryQueue;
use crate::failpoint;
use crate::model::{Failure, Outcome};
use crate::outbox::Delivery;

pub trait Deliver: Send + Sync + 'static {
    fn attempt(&self, delivery: &Delivery) -> impl Future<Output = Outcome> + Send;
}

/// A delivery whose attempt has ended.
pub struct Attempted {
    pub delivery: Delivery,
    pub outcome: Outcome,
    /// For how long its endpoint is paused from now on.
    pub pause: Option<Duration>,
}

/// Cuts requests in flight short.
#[derive(Clone, Debug, Default)]
pub struct Abort(Arc<Mutex<CancellationToken>>);

impl Abort {
    /// Cuts short what is in flight now; what begins later is not affected.
    pub fn abort(&self) {
        let token = std::mem::take(&mut *self.0.lock());
        token.cancel();
    }

    fn token(&self) -> CancellationToken {
        self.0.lock().clone()
    }
}

/// Starts workers while something may be sent, and ends them all in good order.
pub struct Workers<D> {
    queue: DeliveryQueue,
    deliver: Arc<D>,
    results: mpsc::UnboundedSender<Attempted>,
    running: TaskTracker,
    abort: Abort,
}

impl<D: Deliver> Workers<D> {
    pub fn new(queue: DeliveryQueue, deliver: D, abort: Abort, results: mpsc::UnboundedSender<Attempted>) -> Self {
        Self {
            queue,
            deliver: Arc::new(deliver),
            results,
            running: TaskTracker::new(),
            abort,
        }
    }

    /// Starts workers until `stop`; then lets what is in flight finish until `grace` has passed, and cuts the rest short. Every
    /// result has been handed to the recorder when this returns. What was not begun stays in the outbox.
    pub async fn run(self, stop: CancellationToken, grace: impl Future<Output = ()>) {
        loop {
            while let Some(delivery) = self.queue.next() {
                self.running.spawn(self.worker(delivery));
            }
            let wakes_at = self.queue.wakes_at();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.queue.send_wanted().notified() => {}
                () = sleep_until(wakes_at) => {}
            }
        }
        self.queue.close();
        self.running.close();
        tokio::select! {
            () = self.running.wait() => return,
            () = grace => self.abort.abort(),
        }
        self.running.wait().await;
    }

    fn worker(&self, first: Delivery) -> impl Future<Output = ()> + Send + 'static {
        let queue = self.queue.clone();
        let deliver = Arc::clone(&self.deliver);
        let abort = self.abort.clone();
        let results = self.results.clone();
        async move {
            let mut next = Some(first);
            while let Some(delivery) = next {
                let token = abort.token();
                let outcome = tokio::select! {
                    outcome = attempt(&*deliver, &delivery) => outcome,
                    () = token.cancelled() => Outcome::NotSent,
                };
                failpoint::reach("sent");
                let pause = queue.ended(&delivery, &outcome);
                if outcome.is_recorded() {
                    let attempted = Attempted {
                        delivery,
                        outcome,
                        pause,
                    };
                    // The recorder lives as long as there are workers.
                    let _ = results.send(attempted);
                }
                next = queue.next();
            }
        }
    }
}

/// `None`: for ever.
pub(super) async fn sleep_until(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// One attempt. A panic is a failure of its delivery alone: else its slot, and one of the endpoint's requests, would be lost.
async fn attempt(deliver: &impl Deliver, delivery: &Delivery) -> Outcome {
    let began = Instant::now();
    let attempt = async {
        failpoint::reach("to-be-sent");
        deliver.attempt(delivery).await
    };
    match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => broke(delivery, &*panic, began),
    }
}

fn broke(delivery: &Delivery, panic: &(dyn Any + Send), began: Instant) -> Outcome {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    error!(
        organization = delivery.endpoint.organization(),
        endpoint = delivery.endpoint.endpoint(),
        event_id = delivery.message.event_id.as_str(),
        attempt = delivery.attempt,
        panic = text.unwrap_or("without a text"),
        "a bug in this daemon broke off an attempt: it counts as failed, all others go on; please report it"
    );
    Outcome::TransientFailure(Failure {
        reason: "a bug in certhookd broke off the attempt".into(),
        elapsed: began.elapsed(),
        ..Failure::default()
    })
}
