//! Whether the directory follows the platform's changes, or is cut off from them.
//!
//! An event that is found right after an outage must not be given to the endpoints of before it.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A question to MongoDB that has had no reply for this long counts as one that fails.
const SLOW: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// Changes take effect within about a second.
    Yes,
    /// MongoDB was asked then for changes, and has not replied yet.
    Asking(Instant),
    /// MongoDB is unavailable.
    CutOff,
}

#[derive(Debug)]
pub(super) struct Freshness {
    follows: watch::Sender<Follows>,
    wanted: Notify,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            follows: watch::Sender::new(Follows::Yes),
            wanted: Notify::new(),
        }
    }
}

impl Freshness {
    /// MongoDB is about to be asked for changes. After an outage nothing is known before the reply.
    pub(super) fn asking(&self) {
        self.follows.send_if_modified(|follows| {
            let asks = *follows == Follows::Yes;
            if asks {
                *follows = Follows::Asking(Instant::now());
            }
            asks
        });
    }

    /// All changes are in effect, or only that is known which MongoDB refuses to tell more of.
    pub(super) fn follows(&self) {
        self.follows.send_replace(Follows::Yes);
    }

    pub(super) fn is_cut_off(&self) {
        self.follows.send_replace(Follows::CutOff);
    }

    /// Waits until somebody waits for changes to be followed.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits while MongoDB is unavailable to who follows the changes.
    pub(super) async fn wait(&self) {
        let mut follows = self.follows.subscribe();
        loop {
            match *follows.borrow_and_update() {
                Follows::Yes => return,
                Follows::Asking(since) if since.elapsed() < SLOW => return,
                Follows::Asking(_) | Follows::CutOff => self.wanted.notify_one(),
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
    async fn who_is_cut_off_or_gets_no_reply_is_waited_for() {
        let freshness = Freshness::default();
        let is_fresh = || freshness.wait().now_or_never().is_some();
        assert!(is_fresh());
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
}
