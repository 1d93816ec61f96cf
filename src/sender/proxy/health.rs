//! Whether the proxy works, as far as is known. One WARN when an outage begins, one INFO when it ends.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Targets that are remembered, at most.
const REMEMBERED: usize = 4096;

/// A proxy that is unavailable.
#[derive(Clone, Debug)]
pub struct ProxyOutage {
    /// Why, with the proxy's host and port.
    pub reason: String,
    since: Instant,
}

impl ProxyOutage {
    /// How long it has lasted.
    pub fn lasts(&self) -> Duration {
        self.since.elapsed()
    }
}

impl fmt::Display for ProxyOutage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

pub(super) struct Health {
    state: Mutex<State>,
    /// Whether an outage lasts.
    outages: watch::Sender<bool>,
    replaced: Notify,
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    outage: Option<ProxyOutage>,
    /// What was last asked for when the proxy was at fault.
    target: String,
    ended: Option<Instant>,
    answered: Option<Instant>,
    /// Targets at which it broke off, and when, since it last was found unavailable.
    broke: HashMap<String, Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            outages: watch::Sender::new(false),
            replaced: Notify::new(),
            asking: tokio::sync::Mutex::default(),
        }
    }
}

impl Health {
    pub(super) fn outage(&self) -> Option<ProxyOutage> {
        self.state.lock().outage.clone()
    }

    pub(super) fn is_unavailable(&self) -> bool {
        *self.outages.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.outages.subscribe()
    }

    pub(super) fn back_since(&self) -> Option<Instant> {
        self.state.lock().ended
    }

    /// What the probe asks for, if anything is known.
    pub(super) fn target(&self) -> String {
        self.state.lock().target.clone()
    }

    pub(super) fn notify_replaced(&self) {
        self.replaced.notify_one();
    }

    pub(super) async fn replaced(&self) {
        self.replaced.notified().await;
    }

    pub(super) async fn asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().await
    }

    pub(super) fn has_answered_since(&self, then: Instant) -> bool {
        self.state.lock().answered.is_some_and(|answered| answered >= then)
    }

    /// It has answered CONNECT to that target, whatever it said.
    pub(super) fn answered(&self, target: &str) {
        let mut state = self.state.lock();
        state.answered = Some(Instant::now());
        state.broke.remove(target);
    }

    /// It has responded to what no target has a part in.
    pub(super) fn responded(&self) {
        self.state.lock().answered = Some(Instant::now());
    }

    /// The proxy broke off CONNECT to that target. Whether it is not the first time, though it works otherwise.
    pub(super) fn breaks_off_again(&self, target: &str, began: Instant) -> bool {
        let mut state = self.state.lock();
        let is_again = state.outage.is_none() && state.broke.get(target).is_some_and(|broke| *broke < began);
        if !is_again && (state.broke.len() < REMEMBERED || state.broke.contains_key(target)) {
            state.broke.insert(target.to_owned(), Instant::now());
        }
        is_again
    }

    /// It is at fault, as what began then has found. Returns whether an outage begins.
    pub(super) fn failed(&self, proxy: &str, reason: &str, target: &str, began: Instant) -> bool {
        let mut state = self.state.lock();
        // What began before the end of an outage says nothing of now.
        if state.outage.is_some() || state.ended.is_some_and(|ended| began <= ended) {
            debug!(proxy, reason, "another connection met the proxy's fault");
            return false;
        }
        state.outage = Some(ProxyOutage {
            reason: reason.to_owned(),
            since: Instant::now(),
        });
        if !target.is_empty() {
            state.target = target.to_owned();
        }
        self.outages.send_replace(true);
        warn!(
            proxy,
            "{reason}; all that goes through it waits and no attempt counts, it is asked until it works"
        );
        true
    }

    /// The outage goes on, for this reason.
    pub(super) fn goes_on(&self, reason: String) {
        let mut state = self.state.lock();
        debug!(reason, "the proxy is still unavailable");
        // By now it is certain that it was no target's fault.
        state.broke.clear();
        if let Some(outage) = &mut state.outage {
            outage.reason = reason;
        }
    }

    /// The outage has ended; `proxy` is the one that works, if one is still configured.
    pub(super) fn ended(&self, proxy: Option<&str>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        (state.ended, state.answered) = (Some(now), Some(now));
        let lasted = state.outage.take().map_or(Duration::ZERO, |outage| outage.lasts());
        let outage_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        self.outages.send_replace(false);
        match proxy {
            Some(proxy) => info!(proxy, outage_ms, "the proxy {proxy} works again: deliveries go on"),
            None => info!(
                outage_ms,
                "no proxy is configured any more: deliveries go on without one"
            ),
        }
    }
}
