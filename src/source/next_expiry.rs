//! Triggers a scan at the moment when the next certificate expires, between the schedule's instants.
//!
//! The next expiry is the first key of the scan's index after now. Certificates that are new or re-dated meanwhile come
//! from the change stream; where there is none, the index is asked once a second.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime, doc};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::ScanTrigger;
use crate::config;
use crate::model::{Clock, Reloadable, time_until};
use crate::store::{Result, Stopped, Store};

/// How often the index is asked although nothing was heard: with a change stream, and without.
const ASK_EVERY: Duration = Duration::from_secs(60);
const ASK_EVERY_WITHOUT_STREAM: Duration = Duration::from_secs(1);

/// Expiries that come closer together than this share a scan.
const BURST: Duration = Duration::from_millis(25);

/// The next expiry that is known. The change stream adds the expiries that it yields.
#[derive(Clone, Debug, Default)]
pub struct Horizon(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    next: Mutex<Option<DateTime>>,
    nearer: Notify,
}

impl Horizon {
    /// A certificate expires then.
    pub fn add(&self, expires: DateTime) {
        let mut next = self.0.next.lock();
        if next.is_none_or(|next| expires < next) {
            *next = Some(expires);
            self.0.nearer.notify_one();
        }
    }

    fn next(&self) -> Option<DateTime> {
        *self.0.next.lock()
    }

    /// Forgets what is reached, and what the index does not confirm.
    fn set(&self, next: Option<DateTime>) {
        *self.0.next.lock() = next;
    }
}

/// What the look-ahead needs.
#[derive(Clone)]
pub struct Lookahead {
    pub store: Store,
    pub clock: Clock,
    /// `[scan]` as it is now.
    pub config: Reloadable<config::Scan>,
    /// Whether this instance holds the lease for finding events.
    pub lease: watch::Receiver<Option<i64>>,
    pub horizon: Horizon,
    /// Whether there is a change stream that adds to it.
    pub streaming: bool,
}

impl Lookahead {
    /// Triggers a scan whenever a certificate expires, until `stop`, while this instance holds the lease.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable.
    pub async fn run(mut self, trigger: ScanTrigger, stop: CancellationToken) -> std::result::Result<(), Stopped> {
        while !stop.is_cancelled() {
            let scans = self.lease.borrow_and_update().is_some();
            if !scans || !self.config.get().precise {
                let idle = tokio::time::timeout(ASK_EVERY, self.lease.changed());
                let _ = stop.run_until_cancelled(idle).await;
                continue;
            }
            let now = self.clock.now();
            self.horizon.set(None);
            let found = self
                .store
                .persist("look for the next expiry", || self.next_after(now))
                .await?;
            found.into_iter().for_each(|expires| self.horizon.add(expires));
            if let Some(Some(reached)) = stop.run_until_cancelled(self.reach()).await {
                trigger.expired(reached);
                let _ = stop.run_until_cancelled(tokio::time::sleep(BURST)).await;
            }
        }
        Ok(())
    }

    /// Waits for the next expiry, before which another may become known; `None` when it is time to ask the index again.
    async fn reach(&self) -> Option<DateTime> {
        let longest = if self.streaming {
            ASK_EVERY
        } else {
            ASK_EVERY_WITHOUT_STREAM
        };
        let deadline = tokio::time::Instant::now() + longest;
        loop {
            let nearer = self.horizon.0.nearer.notified();
            let next = self.horizon.next();
            let wait = next.map_or(longest, |next| time_until(next, self.clock.now()));
            if next.is_some() && wait.is_zero() {
                return next;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    self.horizon.next()?;
                }
                () = tokio::time::sleep_until(deadline) => return None,
                () = nearer => {}
            }
        }
    }

    async fn next_after(&self, now: DateTime) -> Result<Option<DateTime>> {
        let after = self
            .config
            .get()
            .not_before
            .map_or(now, |not_before| not_before.max(now));
        let unsent = doc! { "expiryReminderSent": { "$in": [false, Bson::Null] }, "expires": { "$gt": after } };
        let collection = self.store.badge_users();
        let next = collection
            .find_one(unsent)
            .sort(doc! { "expires": 1 })
            .projection(doc! { "expires": 1 })
            .await?;
        Ok(next.and_then(|document| document.get_datetime("expires").ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_only_comes_nearer() {
        let horizon = Horizon::default();
        let at = DateTime::from_millis;
        horizon.add(at(20));
        horizon.add(at(30));
        assert_eq!(horizon.next(), Some(at(20)));
        horizon.add(at(10));
        assert_eq!(horizon.next(), Some(at(10)));
        horizon.set(None);
        assert_eq!(horizon.next(), None);
    }
}
