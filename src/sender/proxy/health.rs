//! Whether the proxy works, as far as is known. One WARN when an outage begins, one INFO when it ends.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::connect::Fault;

/// The most hosts that are remembered.
const REMEMBERED: usize = 4096;

/// A proxy that is unavailable.
#[derive(Clone, Debug)]
pub struct ProxyOutage {
    /// What fails, with the proxy's host and port.
    pub reason: String,
    since: Instant,
    /// Tells outages apart.
    number: u64,
    /// Whether at some time everything waited, and not only what goes to hosts that have met it.
    held_all: bool,
    /// Whether it did more than to break off, which may be due to the host that was asked for: then whatever was under way may have met it.
    hit_all: bool,
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

/// What waits for the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageScope {
    /// It works.
    Nothing,
    /// What goes to hosts that have met its fault: it may be theirs.
    AffectedHosts,
    /// Whatever goes through it.
    Everything,
}

/// What was asked for, and on whose behalf.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// `HOST:PORT` of a URL.
    pub(super) host: &'a str,
    /// `ADDRESS:PORT`, if it came to that.
    pub(super) target: Option<&'a str>,
    pub(super) began: Instant,
}

pub(super) struct Health {
    state: Mutex<State>,
    scope: watch::Sender<OutageScope>,
    /// The proxy was replaced, or the outage ended without the probe.
    changed: Notify,
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    outage: Option<ProxyOutage>,
    number: u64,
    ended: Ended,
    /// Hosts that met the fault in this outage, and what was asked for.
    affected: HashMap<String, Option<String>>,
    /// Hosts for which it broke off, and when that was first known.
    broke: HashMap<String, Instant>,
    answered: Answered,
    /// When it last reacted to what no endpoint has a part in.
    reacted: Option<Instant>,
}

/// When outages last ended.
#[derive(Default)]
struct Ended {
    last: Option<Instant>,
    /// The last in which everything waited.
    held_all: Option<Instant>,
    /// The last that whatever was under way may have met.
    hit_all: Option<Instant>,
    /// The last that each host has met, of those in which other hosts did not wait.
    of_host: HashMap<String, Instant>,
}

impl Ended {
    fn note(&mut self, outage: &ProxyOutage, affected: impl ExactSizeIterator<Item = String>, now: Instant) {
        self.last = Some(now);
        if outage.hit_all {
            self.hit_all = Some(now);
        }
        if outage.held_all {
            self.held_all = Some(now);
            self.of_host.clear();
            return;
        }
        if self.of_host.len() + affected.len() > REMEMBERED {
            self.of_host.clear();
        }
        self.of_host.extend(affected.map(|host| (host, now)));
    }

    /// The last in which what goes to that host waited.
    fn held(&self, host: &str) -> Option<Instant> {
        self.held_all.max(self.of_host.get(host).copied())
    }
}

/// When CONNECT was last answered.
#[derive(Default)]
struct Answered {
    last: Option<(String, Instant)>,
    /// To another host than the last.
    other: Option<Instant>,
}

impl Answered {
    fn note(&mut self, host: &str, now: Instant) {
        match &mut self.last {
            Some((last, at)) if last == host => *at = now,
            last => {
                let before = last.replace((host.to_owned(), now));
                self.other = before.map(|(_, at)| at);
            }
        }
    }

    /// Whether CONNECT to another host was answered since then.
    fn to_another(&self, host: &str, since: Instant) -> bool {
        let at = match &self.last {
            Some((last, at)) if last != host => Some(*at),
            _ => self.other,
        };
        at.is_some_and(|at| at >= since)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            scope: watch::Sender::new(OutageScope::Nothing),
            changed: Notify::new(),
            asking: tokio::sync::Mutex::default(),
        }
    }
}

impl Health {
    pub(super) fn outage(&self) -> Option<ProxyOutage> {
        self.state.lock().outage.clone()
    }

    pub(super) fn scope(&self) -> OutageScope {
        *self.scope.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<OutageScope> {
        self.scope.subscribe()
    }

    /// Whether what goes to that host waits.
    pub(super) fn makes_wait(&self, host: &str) -> bool {
        match self.scope() {
            OutageScope::Nothing => false,
            OutageScope::AffectedHosts => self.state.lock().affected.contains_key(host),
            OutageScope::Everything => true,
        }
    }

    pub(super) fn had_outage(&self) -> bool {
        self.state.lock().ended.last.is_some()
    }

    /// The end of the last outage in which what goes to that host waited.
    pub(super) fn back_since(&self, host: &str) -> Option<Instant> {
        self.state.lock().ended.held(host)
    }

    /// Whether what goes to that host and began then may have met an outage that has ended.
    pub(super) fn may_have_met_outage(&self, host: &str, began: Instant) -> bool {
        let ended = &self.state.lock().ended;
        ended.held(host).max(ended.hit_all).is_some_and(|end| began <= end)
    }

    /// The number of the present outage, and what may be asked for to find out whether it still does.
    pub(super) fn outage_and_targets(&self) -> Option<(u64, Vec<String>)> {
        let state = self.state.lock();
        let targets = state.affected.values().flatten().cloned().collect();
        Some((state.outage.as_ref()?.number, targets))
    }

    pub(super) fn notify_changed(&self) {
        self.changed.notify_one();
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) async fn asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().await
    }

    /// It has answered CONNECT, whatever it said. That ends an outage that has begun before.
    pub(super) fn answered(&self, proxy: &str, asked: Asked<'_>) {
        let mut state = self.state.lock();
        state.answered.note(asked.host, Instant::now());
        state.broke.remove(asked.host);
        if state.outage.as_ref().is_some_and(|outage| outage.since <= asked.began) {
            self.end(&mut state, Some(proxy));
        }
    }

    /// Whether it has answered CONNECT to another host since.
    pub(super) fn has_answered_another(&self, asked: Asked<'_>) -> bool {
        self.state.lock().answered.to_another(asked.host, asked.began)
    }

    pub(super) fn reacted(&self) {
        self.state.lock().reacted = Some(Instant::now());
    }

    pub(super) fn has_reacted_since(&self, then: Instant) -> bool {
        self.state.lock().reacted.is_some_and(|reacted| reacted >= then)
    }

    /// Notes that what `asked` says has met the present outage, which is returned.
    pub(super) fn meet_outage(&self, asked: Asked<'_>) -> Option<ProxyOutage> {
        let mut state = self.state.lock();
        let outage = state.outage.clone()?;
        state.note_affected(asked);
        Some(outage)
    }

    /// Notes that the proxy broke off. Returns whether it had done so before for that host, and has answered for others since: then it is
    /// not its fault.
    pub(super) fn note_break_off(&self, asked: Asked<'_>) -> bool {
        let mut state = self.state.lock();
        let first = state.broke.get(asked.host).copied();
        if first.is_none() && state.broke.len() < REMEMBERED {
            state.broke.insert(asked.host.to_owned(), Instant::now());
        }
        state.outage.is_none()
            && first.is_some_and(|first| first <= asked.began && state.answered.to_another(asked.host, first))
    }

    /// It is at fault, as `asked` has found. Returns whether an outage begins.
    pub(super) fn failed(&self, proxy: &str, fault: &Fault, asked: Asked<'_>) -> bool {
        let reason = format!("the proxy {proxy} {fault}");
        let mut state = self.state.lock();
        if state.outage.is_some() {
            debug!(proxy, reason, "another request met the proxy's fault");
            state.note_affected(asked);
            return false;
        }
        // What began before the end of an outage says nothing of now.
        if state.ended.last.is_some_and(|ended| asked.began <= ended) {
            return false;
        }
        warn!(
            proxy,
            "{reason}; what goes through it waits and no attempt counts, it is asked until it works"
        );
        state.number += 1;
        state.outage = Some(ProxyOutage {
            reason,
            since: Instant::now(),
            number: state.number,
            held_all: fault.scope() == OutageScope::Everything,
            hit_all: !fault.broke(),
        });
        state.affected.clear();
        state.note_affected(asked);
        self.scope.send_replace(fault.scope());
        true
    }

    /// The outage of that number goes on, for this reason.
    pub(super) fn goes_on(&self, number: u64, proxy: &str, fault: &Fault) {
        let mut state = self.state.lock();
        let Some(outage) = state.outage.as_mut().filter(|outage| outage.number == number) else {
            return;
        };
        outage.reason = format!("the proxy {proxy} {fault}");
        outage.held_all |= fault.scope() == OutageScope::Everything;
        outage.hit_all |= !fault.broke();
        debug!(proxy, reason = outage.reason, "the proxy is still unavailable");
        if !fault.broke() {
            // It was no host's fault.
            state.broke.clear();
        }
        let scope = fault.scope();
        self.scope
            .send_if_modified(|now| std::mem::replace(now, scope) != scope);
    }

    /// The outage of that number has ended; `proxy` is the one that works, if one is still configured.
    pub(super) fn ended(&self, number: u64, proxy: Option<&str>) {
        let mut state = self.state.lock();
        if state.outage.as_ref().is_some_and(|outage| outage.number == number) {
            self.end(&mut state, proxy);
        }
    }

    fn end(&self, state: &mut State, proxy: Option<&str>) {
        let Some(outage) = state.outage.take() else { return };
        let affected = std::mem::take(&mut state.affected);
        state.ended.note(&outage, affected.into_keys(), Instant::now());
        let outage_ms = u64::try_from(outage.lasts().as_millis()).unwrap_or(u64::MAX);
        match proxy {
            Some(proxy) => info!(proxy, outage_ms, "the proxy {proxy} works again: deliveries go on"),
            None => info!(
                outage_ms,
                "no proxy is configured any more: deliveries go on without one"
            ),
        }
        self.scope.send_replace(OutageScope::Nothing);
        self.changed.notify_one();
    }
}

impl State {
    fn note_affected(&mut self, asked: Asked<'_>) {
        let target = asked.target.map(str::to_owned);
        if self.affected.len() < REMEMBERED || self.affected.contains_key(asked.host) {
            let affected = self.affected.entry(asked.host.to_owned()).or_default();
            *affected = target.or(affected.take());
        }
    }
}
