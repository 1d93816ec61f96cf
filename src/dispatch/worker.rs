//! Workers: each takes deliveries of one lane, one after the other, while it holds one of the `max_in_flight` permits.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::permits::Permits;
use super::window::{Job, Window};
use crate::kill_point;
use crate::model::{EndpointKey, Outcome};
use crate::outbox::Claimed;

/// What sends.
pub trait Deliver: Send + Sync + 'static {
    /// Makes one attempt and says what came of it.
    fn attempt(&self, delivery: &Claimed) -> impl Future<Output = Outcome> + Send;
}

/// A delivery that was attempted, with its place in the window.
pub type Attempted = (Job, Outcome);

/// Starts a worker where a lane wants one, and ends them all in good order.
pub struct Workers<D> {
    window: Window,
    deliver: Arc<D>,
    permits: Permits,
    results: mpsc::UnboundedSender<Attempted>,
    running: TaskTracker,
    abort: CancellationToken,
}

impl<D: Deliver> Workers<D> {
    /// Workers that share these permits, one for each request in flight.
    pub fn new(window: Window, deliver: D, permits: Permits, results: mpsc::UnboundedSender<Attempted>) -> Self {
        Self {
            window,
            deliver: Arc::new(deliver),
            permits,
            results,
            running: TaskTracker::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Starts workers until `stop`; then lets what is in flight finish until `grace` has passed, cuts the rest short, and hands
    /// back what was not begun. Every result has been handed to the recorder when this returns.
    pub async fn run(
        self,
        mut wanted: mpsc::UnboundedReceiver<EndpointKey>,
        stop: CancellationToken,
        grace: impl Future<Output = ()>,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(endpoint) = wanted.recv() => drop(self.running.spawn(self.worker(endpoint))),
            }
        }
        for job in self.window.close() {
            let _ = self.results.send((job, Outcome::Interrupted));
        }
        self.running.close();
        tokio::select! {
            () = self.running.wait() => return,
            () = grace => self.abort.cancel(),
        }
        self.running.wait().await;
    }

    fn worker(&self, endpoint: EndpointKey) -> impl Future<Output = ()> + Send + 'static {
        let (window, deliver, permits) = (self.window.clone(), Arc::clone(&self.deliver), self.permits.clone());
        let (results, abort) = (self.results.clone(), self.abort.clone());
        async move {
            // The permit comes first: a worker that waits for one holds no delivery back from the release on stop.
            loop {
                let permit = permits.acquire().await;
                let Some(job) = window.pop(&endpoint) else { break };
                let outcome = if window.must_wait(&job) {
                    Outcome::Interrupted
                } else {
                    kill_point::reach("to-be-sent");
                    tokio::select! {
                        outcome = deliver.attempt(&job.delivery) => outcome,
                        () = abort.cancelled() => Outcome::Interrupted,
                    }
                };
                drop(permit);
                kill_point::reach("sent");
                let _ = results.send((job, outcome));
            }
        }
    }
}
