//! One WARN when MongoDB goes away, one INFO when all is well again, however many loops notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::reason;

/// Whether MongoDB is away, and since when. Shared by every loop that talks to it.
#[derive(Clone, Debug, Default)]
pub struct Outage(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Loops whose last try failed. Reads may succeed while writes fail: the outage ends with the last of them.
    failing: usize,
    since: Option<Instant>,
    ended: Option<Instant>,
}

/// The tries of one loop, or of one operation that is repeated until it succeeds.
#[derive(Debug)]
pub struct Tries {
    outage: Outage,
    failing: bool,
}

impl Outage {
    /// For a loop that is about to try.
    pub fn tries(&self) -> Tries {
        Tries {
            outage: self.clone(),
            failing: false,
        }
    }

    /// How long the present outage has lasted, if there is one.
    pub fn lasts(&self) -> Option<Duration> {
        self.0.lock().since.map(|since| since.elapsed())
    }
}

impl Tries {
    /// A try that began then has failed: logs the first failure of an outage.
    pub fn failed(&mut self, what: &str, error: &mongodb::error::Error, began: Instant) {
        let mut state = self.outage.0.lock();
        if !self.failing && state.ended.is_some_and(|ended| began <= ended) {
            debug!(error = %reason(error), "MongoDB failed to {what} during an outage that is over");
            return;
        }
        state.failing += usize::from(!self.failing);
        self.failing = true;
        if state.since.is_none() {
            state.since = Some(Instant::now());
            warn!(error = %reason(error), "MongoDB failed to {what}; waiting for it, deliveries already held go on");
        }
    }

    /// A try has succeeded: logs the end of an outage where this was the last loop that failed.
    pub fn succeeded(&mut self) {
        if !std::mem::take(&mut self.failing) {
            return;
        }
        let mut state = self.outage.0.lock();
        state.failing -= 1;
        if state.failing > 0 {
            return;
        }
        if let Some(since) = state.since.take() {
            state.ended = Some(Instant::now());
            let outage_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(outage_ms, "MongoDB is back");
        }
    }
}

/// Nothing is tried any more.
impl Drop for Tries {
    fn drop(&mut self) {
        if self.failing {
            self.outage.0.lock().failing -= 1;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> mongodb::error::Error {
        mongodb::error::Error::custom("away")
    }

    #[test]
    fn an_outage_lasts_until_the_last_loop_that_failed_has_succeeded() {
        let outage = Outage::default();
        let (mut read, mut write, mut other) = (outage.tries(), outage.tries(), outage.tries());
        read.failed("read", &error(), Instant::now());
        write.failed("write", &error(), Instant::now());
        write.failed("write", &error(), Instant::now());
        other.succeeded();
        read.succeeded();
        assert!(outage.lasts().is_some(), "writes still fail");
        write.succeeded();
        assert!(outage.lasts().is_none());
    }

    #[test]
    fn a_try_from_before_the_end_begins_no_new_outage() {
        let outage = Outage::default();
        let (mut quick, mut slow, began) = (outage.tries(), outage.tries(), Instant::now());
        quick.failed("read", &error(), began);
        quick.succeeded();
        slow.failed("write", &error(), began);
        assert!(outage.lasts().is_none());
        slow.failed("write", &error(), Instant::now());
        assert!(outage.lasts().is_some());
    }

    #[test]
    fn a_loop_that_ended_holds_no_outage_open() {
        let outage = Outage::default();
        let (mut ended, mut other) = (outage.tries(), outage.tries());
        ended.failed("read", &error(), Instant::now());
        other.failed("write", &error(), Instant::now());
        drop(ended);
        other.succeeded();
        assert!(outage.lasts().is_none());
    }
}
