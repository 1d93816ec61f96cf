//! One WARN when MongoDB goes away, one INFO when it is back, however many loops notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{info, warn};

/// Whether MongoDB is away, and since when. Shared by every loop that talks to it.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    since: Arc<Mutex<Option<Instant>>>,
}

impl Outage {
    /// An operation failed: logs the first failure of an outage.
    pub fn began(&self, what: &str, error: &mongodb::error::Error) {
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            warn!(error = %one_line(error), "MongoDB failed to {what}; waiting for it, deliveries already held go on");
        }
    }

    /// An operation succeeded: logs the end of an outage.
    pub fn ended(&self) {
        if let Some(since) = self.since.lock().take() {
            info!(
                outage_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                "MongoDB is back"
            );
        }
    }

    /// How long the present outage has lasted, if there is one.
    pub fn lasts(&self) -> Option<Duration> {
        self.since.lock().map(|since| since.elapsed())
    }
}

/// The driver's message without its line breaks.
fn one_line(error: &mongodb::error::Error) -> String {
    error.to_string().replace(['\n', '\r'], " ")
}

/// Waits between tries: 100 ms doubling to 5 s, each cut by up to a quarter so that daemons do not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: Duration::from_millis(100),
        }
    }
}

impl Backoff {
    /// Waits once, longer each time.
    pub(crate) async fn wait(&mut self) {
        let full = self.next;
        self.next = (full * 2).min(Duration::from_secs(5));
        tokio::time::sleep(full.mul_f64(1.0 - 0.25 * fastrand::f64())).await;
    }
}
