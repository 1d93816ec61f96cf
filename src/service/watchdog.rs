//! Tells the service manager that the daemon is alive, only while every loop makes progress, so that a daemon that hangs is restarted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::systemd::Manager;

/// Knows the daemon's loops and when each has last made progress. Clones watch the same loops.
#[derive(Clone, Debug)]
pub struct Watchdog {
    epoch: Instant,
    loops: Arc<Mutex<Vec<Weak<Loop>>>>,
}

/// One loop's progress. Dropped, the loop has ended and is no longer watched; `run` handles its end.
#[derive(Debug)]
pub struct Progress {
    epoch: Instant,
    watched: Arc<Loop>,
}

#[derive(Debug)]
struct Loop {
    name: &'static str,
    allowance: Duration,
    /// When it last made progress, in milliseconds after the epoch.
    moved: AtomicU64,
}

impl Watchdog {
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            loops: Arc::default(),
        }
    }

    /// Watches a loop that must report progress at least once per `allowance`, the longest time that a round may take.
    #[must_use = "the loop is watched only as long as its progress exists"]
    pub fn register(&self, name: &'static str, allowance: Duration) -> Progress {
        let watched = Arc::new(Loop {
            name,
            allowance,
            moved: AtomicU64::new(0),
        });
        self.loops.lock().push(Arc::downgrade(&watched));
        let progress = Progress {
            epoch: self.epoch,
            watched,
        };
        progress.report();
        progress
    }

    /// Tells `manager` that this process is alive, three times per `WATCHDOG_USEC`, until `stop`; not while a loop makes no
    /// progress, which is logged once. Returns at once when the manager asked for no watchdog.
    pub async fn run(&self, manager: &Manager, stop: CancellationToken) {
        let Some(timeout) = libsystemd::daemon::watchdog_enabled(false) else {
            return;
        };
        let _ = stop.run_until_cancelled(self.feed(manager, timeout)).await;
    }

    async fn feed(&self, manager: &Manager, timeout: Duration) {
        let mut tick = interval(timeout / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = Vec::new();
        loop {
            tick.tick().await;
            let stalled = self.stalled();
            if stalled.is_empty() {
                manager.alive();
            }
            report(&known, &stalled, timeout);
            known = stalled;
        }
    }

    /// The loops that have made no progress for longer than their allowance.
    pub fn stalled(&self) -> Vec<&'static str> {
        let mut loops = self.loops.lock();
        loops.retain(|watched| watched.strong_count() > 0);
        let late = |watched: &Arc<Loop>| {
            let moved = self.epoch + Duration::from_millis(watched.moved.load(Ordering::Relaxed));
            moved.elapsed() > watched.allowance
        };
        loops
            .iter()
            .filter_map(Weak::upgrade)
            .filter(late)
            .map(|watched| watched.name)
            .collect()
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// The loop has made progress. A round that failed counts, too: an outage is no reason for a restart.
    pub fn report(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.watched.moved.store(now, Ordering::Relaxed);
    }
}

fn report(known: &[&str], stalled: &[&str], timeout: Duration) {
    for name in stalled.iter().filter(|name| !known.contains(name)) {
        let timeout = timeout.as_secs();
        tracing::error!(
            "the {name} loop makes no progress: unless it does in the next {timeout} s, systemd restarts this daemon"
        );
    }
    for name in known.iter().filter(|name| !stalled.contains(name)) {
        tracing::info!("the {name} loop makes progress again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::systemd::tests::listening;
    use tokio::time::sleep;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const ALLOWANCE: Duration = Duration::from_secs(60);

    /// Lets time pass as `feed` sees it; what was sent meanwhile, in number.
    async fn sent_within(span: Duration, heard: &impl Fn() -> Vec<String>) -> usize {
        sleep(span).await;
        let messages = heard();
        assert!(messages.iter().all(|message| message == "WATCHDOG=1"));
        messages.len()
    }

    #[tokio::test(start_paused = true)]
    async fn one_loop_that_stands_still_silences_the_watchdog_until_it_moves() {
        let (manager, heard) = listening();
        let watchdog = Watchdog::new();
        let fetcher = watchdog.register("fetcher", ALLOWANCE);
        let scan = watchdog.register("scan", ALLOWANCE * 100);
        let feeding = {
            let watchdog = watchdog.clone();
            tokio::spawn(async move { watchdog.feed(&manager, TIMEOUT).await })
        };

        assert_eq!(
            sent_within(ALLOWANCE + Duration::from_secs(1), &heard).await,
            7,
            "three times per timeout"
        );
        scan.report();
        assert_eq!(watchdog.stalled(), ["fetcher"]);
        assert_eq!(sent_within(TIMEOUT, &heard).await, 0);
        fetcher.report();
        assert_eq!(sent_within(TIMEOUT, &heard).await, 3);
        feeding.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_ended_is_not_waited_for() {
        let watchdog = Watchdog::new();
        let progress = watchdog.register("scan", ALLOWANCE);
        sleep(ALLOWANCE * 2).await;
        assert_eq!(watchdog.stalled(), ["scan"]);
        drop(progress);
        assert!(watchdog.stalled().is_empty());
    }

    #[tokio::test]
    async fn without_a_service_manager_there_is_nothing_to_feed() {
        // Would wait for good: `stop` never comes.
        Watchdog::new()
            .run(&Manager::from_env(), CancellationToken::new())
            .await;
    }
}
