//! How old the directory's knowledge is, and whether somebody relies on it.
//!
//! A source waits until the directory is fresh, so that no event goes by endpoints as they were before an outage or a rest. It does not
//! wait where that may not help ([`Follows::Nothing`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Changes that are younger need not be known: whoever follows them asks once a second while somebody relies on them.
const FRESH: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// All is in effect of which MongoDB was asked then.
    Since(Instant),
    /// Nobody asks, MongoDB refuses to tell, or changes come faster than they are read.
    Nothing,
    /// MongoDB is unavailable.
    Unavailable,
}

#[derive(Debug)]
pub(super) struct Freshness {
    follows: watch::Sender<Follows>,
    wanted: Notify,
    used: AtomicBool,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            follows: watch::Sender::new(Follows::Nothing),
            wanted: Notify::new(),
            used: AtomicBool::new(false),
        }
    }
}

impl Freshness {
    /// All changes are in effect of which MongoDB was asked then.
    pub(super) fn follows_since(&self, asked: Instant) {
        self.follows.send_replace(Follows::Since(asked));
    }

    /// MongoDB is not asked any more, or refuses to tell.
    pub(super) fn follows_nothing(&self) {
        self.follows.send_replace(Follows::Nothing);
    }

    /// MongoDB is not asked for some time, for another reason than that it is unavailable.
    pub(super) fn pauses(&self) {
        self.follows.send_if_modified(|follows| {
            let is_up = *follows != Follows::Unavailable;
            if is_up {
                *follows = Follows::Nothing;
            }
            is_up
        });
    }

    /// MongoDB is unavailable. Who waits is not woken by that again and again.
    pub(super) fn set_unavailable(&self) {
        self.follows
            .send_if_modified(|follows| std::mem::replace(follows, Follows::Unavailable) != Follows::Unavailable);
    }

    /// Somebody relies on what is known.
    pub(super) fn used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has relied on what is known since this was last asked.
    pub(super) fn reset_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Waits until somebody wants to know more.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until all is known that MongoDB knew [`FRESH`] before now, or more can't be known.
    pub(super) async fn wait(&self) {
        let began = Instant::now();
        let mut follows = self.follows.subscribe();
        loop {
            match *follows.borrow_and_update() {
                Follows::Nothing => return,
                Follows::Since(asked) if began.saturating_duration_since(asked) <= FRESH => return,
                Follows::Since(_) | Follows::Unavailable => self.wanted.notify_one(),
            }
            if follows.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_needs_more_than_is_known_asks_for_it_and_waits() {
        let freshness = Freshness::default();
        let is_fresh = || freshness.wait().now_or_never().is_some();
        let is_wanted = || freshness.wanted().now_or_never().is_some();
        assert!(is_fresh(), "nobody asks");
        freshness.follows_since(Instant::now());
        tokio::time::advance(FRESH).await;
        assert!(is_fresh() && !is_wanted());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!is_fresh() && is_wanted(), "an old answer");
        let asked = Instant::now();
        tokio::time::advance(FRESH * 2).await;
        freshness.follows_since(asked);
        assert!(!is_fresh() && is_wanted(), "a late answer to an old question");
        freshness.follows_since(Instant::now());
        assert!(is_fresh() && !is_wanted());
        freshness.set_unavailable();
        assert!(!is_fresh() && is_wanted());
        freshness.pauses();
        assert!(!is_fresh(), "still unavailable");
        freshness.follows_nothing();
        assert!(is_fresh(), "refused");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_mongodb_that_stays_unavailable_asks_once() {
        let freshness = Freshness::default();
        freshness.set_unavailable();
        let wait = freshness.wait();
        tokio::pin!(wait);
        let mut asks = || {
            assert!((&mut wait).now_or_never().is_none());
            freshness.wanted().now_or_never().is_some()
        };
        assert!(asks());
        for _ in 0..3 {
            freshness.set_unavailable();
            assert!(!asks(), "the pauses after failures get longer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_with_the_answer() {
        let freshness = Freshness::default();
        freshness.set_unavailable();
        let wait = freshness.wait();
        tokio::pin!(wait);
        assert!((&mut wait).now_or_never().is_none());
        let asked = Instant::now();
        tokio::time::advance(FRESH * 4).await;
        freshness.follows_since(asked);
        assert!(wait.now_or_never().is_some(), "however late it comes");
    }
}
