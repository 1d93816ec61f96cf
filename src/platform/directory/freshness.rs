//! Whether the directory follows the platform's changes, rests from it while nobody relies on it, or is cut off from them.
//!
//! An event that is found right after an outage must not be given to the endpoints of before it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How often changes are asked for while somebody relies on the directory, so how late a change takes effect.
const LOOK: Duration = Duration::from_secs(1);

/// How often while nobody does. Who begins to, waits until they were asked for.
const RESTING: Duration = Duration::from_secs(4);

/// A reply that is younger needs no other.
const RECENT: Duration = Duration::from_millis(1_500);

/// A question to MongoDB that has had no reply for this long counts as one that fails.
const SLOW: Duration = Duration::from_secs(3);

/// How long an attempt waits for a reply: rather it is made by what was known before.
const ATTEMPT_WAITS: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// What is known must do: nobody asks for changes, or MongoDB refuses to tell them.
    Not,
    /// All changes until then are in effect.
    Yes(Instant),
    /// MongoDB was asked then for changes, and has not replied yet.
    Asking(Instant),
    /// MongoDB is unavailable.
    CutOff,
}

#[derive(Debug)]
pub(super) struct Freshness {
    follows: watch::Sender<Follows>,
    wanted: Notify,
    /// Whether somebody has relied on the directory since changes were last asked for.
    is_used: AtomicBool,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            follows: watch::Sender::new(Follows::Not),
            wanted: Notify::new(),
            is_used: AtomicBool::new(true),
        }
    }
}

impl Freshness {
    /// MongoDB is about to be asked for changes. After an outage nothing is known before the reply.
    pub(super) fn asking(&self) {
        self.follows.send_if_modified(|follows| {
            let asks = matches!(follows, Follows::Yes(_) | Follows::Not);
            if asks {
                *follows = Follows::Asking(Instant::now());
            }
            asks
        });
    }

    /// All changes are in effect.
    pub(super) fn follows(&self) {
        self.follows.send_replace(Follows::Yes(Instant::now()));
    }

    /// What is known must do.
    pub(super) fn follows_not(&self) {
        self.follows.send_replace(Follows::Not);
    }

    pub(super) fn is_cut_off(&self) {
        self.follows.send_replace(Follows::CutOff);
    }

    /// Waits until somebody waits for changes to be followed.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until changes are to be asked for again, after a reply.
    pub(super) async fn rest(&self) {
        let pause = match self.is_used.swap(false, Ordering::AcqRel) {
            true => LOOK,
            false => RESTING,
        };
        let _ = tokio::time::timeout(pause, self.wanted()).await;
    }

    /// Somebody relies on the directory without waiting for it.
    pub(super) fn used(&self) {
        self.is_used.store(true, Ordering::Release);
    }

    /// Waits while MongoDB is unavailable to who follows the changes, or until they have been asked for after a rest.
    pub(super) async fn wait(&self) {
        self.used();
        if self.is_recent() {
            return;
        }
        let mut follows = self.follows.subscribe();
        let mut has_rested = false;
        loop {
            match *follows.borrow_and_update() {
                Follows::Not => return,
                Follows::Yes(at) if at.elapsed() < RECENT => return,
                Follows::Yes(_) => {
                    has_rested = true;
                    self.wanted.notify_one();
                }
                Follows::Asking(_) if has_rested => {}
                Follows::Asking(since) if since.elapsed() < SLOW => return,
                Follows::Asking(_) | Follows::CutOff => self.wanted.notify_one(),
            }
            if follows.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until changes have been asked for after a rest, but for no MongoDB that is unavailable.
    pub(super) async fn wait_after_rest(&self) {
        let rests = |follows: &Follows| matches!(follows, Follows::Yes(at) if at.elapsed() >= RECENT);
        self.used();
        if rests(&self.follows.borrow()) {
            let _ = tokio::time::timeout(ATTEMPT_WAITS, self.wait()).await;
        }
    }

    fn is_recent(&self) -> bool {
        matches!(*self.follows.borrow(), Follows::Yes(at) if at.elapsed() < RECENT)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_cut_off_or_gets_no_reply_is_waited_for() {
        let freshness = Freshness::default();
        let is_fresh = || freshness.wait().now_or_never().is_some();
        assert!(is_fresh(), "nobody asks for changes");
        freshness.asking();
        assert!(is_fresh(), "a question takes its time");
        tokio::time::advance(SLOW).await;
        assert!(!is_fresh(), "no reply for three seconds");
        freshness.follows();
        assert!(is_fresh());
        freshness.is_cut_off();
        assert!(!is_fresh());
        freshness.asking();
        assert!(!is_fresh(), "asked again, no reply yet");
        freshness.follows();
        assert!(is_fresh());
        assert!(freshness.wanted().now_or_never().is_some(), "whoever waits says so");
    }

    #[tokio::test(start_paused = true)]
    async fn who_relies_on_it_after_a_rest_waits_for_the_reply() {
        let freshness = Freshness::default();
        freshness.follows();
        tokio::time::advance(RECENT).await;
        let mut source = Box::pin(freshness.wait());
        let mut attempt = Box::pin(freshness.wait_after_rest());
        assert!((&mut source).now_or_never().is_none() && (&mut attempt).now_or_never().is_none());
        let (rested, ()) = tokio::join!(measure(freshness.rest()), async {});
        assert_eq!(rested, Duration::ZERO, "changes are asked for at once");
        freshness.asking();
        assert!((&mut source).now_or_never().is_none() && (&mut attempt).now_or_never().is_none());
        freshness.follows();
        assert!(source.now_or_never().is_some() && attempt.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_waits_for_no_outage() {
        let freshness = Freshness::default();
        freshness.is_cut_off();
        assert!(freshness.wait_after_rest().now_or_never().is_some(), "it is known");
        freshness.follows();
        tokio::time::advance(RECENT).await;
        assert_eq!(
            measure(freshness.wait_after_rest()).await,
            ATTEMPT_WAITS,
            "no reply comes"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_while_nobody_relies_on_it() {
        let freshness = Freshness::default();
        for (uses, rest) in [
            (true, LOOK),
            (false, RESTING),
            (false, RESTING),
            (true, LOOK),
            (false, RESTING),
        ] {
            freshness.follows();
            if uses {
                freshness.wait().await;
            }
            assert_eq!(measure(freshness.rest()).await, rest, "used: {uses}");
        }
    }

    async fn measure(work: impl Future<Output = ()>) -> Duration {
        let began = Instant::now();
        work.await;
        began.elapsed()
    }
}
