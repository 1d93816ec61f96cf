//! What an instance knows of the endpoints that fail and are assigned to it.

mod known;
mod load;
mod unsaved;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bson::DateTime;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use known::Known;

pub use unsaved::Unsaved;

use super::episode::{
    CLOCKS_DIFFER, Episode, FailedAttempt, Rules, failed, failed_by_us, postponed, recovered, restarted, succeeded,
};
use crate::failpoint;
use crate::model::{EndpointKey, Failure, Outcome, Period, later};
use crate::outbox::Delivery;

/// A suspended endpoint is probed this often.
const PROBE_EVERY: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub struct Episodes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: Mutex<Known>,
    /// How many of them are suspended: most of the time none.
    suspended: AtomicUsize,
    changed: Notify,
    probe_every: Duration,
}

/// Whether an attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// As any other.
    Attempt,
    /// To see whether a suspended endpoint answers again.
    Probe,
    /// The endpoint is suspended.
    No,
}

impl Episodes {
    pub fn new(rules: Rules) -> Self {
        let probe_every = failpoint::limit("suspended-probe", PROBE_EVERY);
        Self(Arc::new(Shared {
            known: Mutex::new(Known::new(rules, probe_every)),
            suspended: AtomicUsize::new(0),
            changed: Notify::new(),
            probe_every,
        }))
    }

    pub fn set_rules(&self, rules: Rules) {
        let mut known = self.0.known.lock();
        known.rules = rules;
        let endpoints: Vec<_> = known.endpoints.keys().cloned().collect();
        endpoints.iter().for_each(|endpoint| known.index(endpoint));
    }

    /// The time between two probes of a suspended endpoint.
    pub fn probe_every(&self) -> Duration {
        self.0.probe_every
    }

    /// How many endpoints are suspended.
    pub fn count_suspended(&self) -> usize {
        self.0.suspended.load(Ordering::Relaxed)
    }

    /// Whether no endpoint fails.
    pub fn is_empty(&self) -> bool {
        self.0.known.lock().endpoints.is_empty()
    }

    /// Notified when something must be written.
    pub fn changed(&self) -> &Notify {
        &self.0.changed
    }

    /// When the endpoint was suspended, up to `now`.
    pub fn suspensions(&self, endpoint: &EndpointKey, now: DateTime) -> Vec<Period> {
        let known = self.0.known.lock();
        let episode = known.endpoints.get(endpoint).and_then(|one| one.episode.as_ref());
        let last = episode.and_then(Episode::suspended_since).map(|since| (since, now));
        let past = known.past.get(endpoint).into_iter().flatten().copied();
        past.chain(last).collect()
    }

    /// Whether the endpoint is suspended, and then whether a probe may go out.
    pub fn suspended(&self, endpoint: &EndpointKey, now: DateTime) -> Option<bool> {
        if self.0.suspended.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let known = self.0.known.lock();
        let suspension = known.endpoints.get(endpoint)?.episode.as_ref()?.suspended.as_ref()?;
        Some(suspension.next_probe(self.0.probe_every, now) <= now)
    }

    /// An attempt is about to begin. If the endpoint is suspended and a probe is due, this one is the probe.
    pub fn begin(&self, endpoint: &EndpointKey, now: DateTime) -> Begin {
        if self.0.suspended.load(Ordering::Relaxed) == 0 {
            return Begin::Attempt;
        }
        let mut known = self.0.known.lock();
        let Some(tracked) = known.endpoints.get_mut(endpoint) else {
            return Begin::Attempt;
        };
        let Some(suspension) = tracked.episode.as_mut().and_then(|episode| episode.suspended.as_mut()) else {
            return Begin::Attempt;
        };
        if suspension.next_probe(self.0.probe_every, now) > now {
            return Begin::No;
        }
        suspension.probed_at = Some(now);
        known.changed(endpoint);
        self.notify(&known);
        Begin::Probe
    }

    /// The probe that has begun was not attempted after all: the next attempt is the probe.
    pub fn take_back_probe(&self, endpoint: &EndpointKey) {
        let mut known = self.0.known.lock();
        let episode = known.endpoints.get_mut(endpoint).and_then(|one| one.episode.as_mut());
        if let Some(suspension) = episode.and_then(|episode| episode.suspended.as_mut()) {
            suspension.probed_at = None;
            known.changed(endpoint);
            self.notify(&known);
        }
    }

    /// Nothing could be sent to these endpoints for that long, and the fault was ours: that time doesn't count.
    pub fn leave_out(&self, by: Duration, is_concerned: impl Fn(&EndpointKey) -> bool, now: DateTime) {
        let mut known = self.0.known.lock();
        let concerned = known.endpoints.keys().filter(|endpoint| is_concerned(endpoint));
        let concerned: Vec<_> = concerned.cloned().collect();
        for endpoint in &concerned {
            if let Some(episode) = known.detach(endpoint) {
                let is_written = known.endpoints.get(endpoint).is_some_and(|one| one.version > 0);
                known.attach(endpoint, Some(postponed(episode, by, now)), None, is_written);
            }
        }
        self.notify(&known);
    }

    /// An attempt has ended. `fingerprint` says what the endpoint's configuration was when it began.
    pub fn ended(&self, delivery: &Delivery, outcome: &Outcome, fingerprint: u64, now: DateTime) {
        let endpoint = &delivery.endpoint;
        if endpoint.is_own() {
            return;
        }
        let (failure, is_gone) = match outcome {
            Outcome::Delivered { .. } => return self.succeeded(endpoint, now),
            Outcome::TransientFailure(failure) => (failure, false),
            Outcome::Gone(failure) => (failure, true),
            Outcome::PermanentFailure(_)
            | Outcome::Cancelled { .. }
            | Outcome::NotSent
            | Outcome::ProxyUnavailable { .. } => return,
        };
        let attempt = FailedAttempt {
            at: now,
            status: failure.status,
            reason: failure.reason.clone(),
            event: delivery.message.event_id.to_string(),
        };
        self.failed(endpoint, attempt, is_connected(failure), is_gone, fingerprint);
    }

    fn succeeded(&self, endpoint: &EndpointKey, now: DateTime) {
        let mut known = self.0.known.lock();
        self.note_connection(&mut known, endpoint, true);
        let rules = known.rules;
        let Some(episode) = known.detach(endpoint) else { return };
        let (was_suspended, was_well) = (episode.suspended.is_some(), episode.well_since);
        let (after, told) = succeeded(episode.clone(), now, &rules);
        let is_news = after
            .as_ref()
            .is_none_or(|after| was_suspended || after.well_since != was_well);
        known.attach(endpoint, after, told.map(|told| (told, episode)), is_news);
        known.note_success(endpoint, Some(now));
        self.notify(&known);
    }

    fn failed(
        &self,
        endpoint: &EndpointKey,
        attempt: FailedAttempt,
        is_connected: bool,
        is_gone: bool,
        fingerprint: u64,
    ) {
        let mut known = self.0.known.lock();
        let is_cut_off = self.note_connection(&mut known, endpoint, is_connected);
        let rules = known.rules;
        let before = known.detach(endpoint);
        let had_lasted = before.as_ref().is_some_and(Episode::is_lasting);
        if !is_connected && is_cut_off {
            let is_told = before.as_ref().is_some_and(|episode| episode.is_told);
            let after = before.and_then(|episode| failed_by_us(episode, attempt.at));
            known.attach(endpoint, after, None, had_lasted && !is_told);
            return self.notify(&known);
        }
        let was_well = before.as_ref().and_then(|episode| episode.well_since);
        let (after, told) = failed(before, attempt, is_gone, fingerprint, &rules);
        let is_news = after.is_lasting() && (!had_lasted || after.well_since != was_well);
        let told: Vec<_> = told.into_iter().map(|told| (told, after.clone())).collect();
        known.attach(endpoint, Some(after), told, is_news);
        known.note_success(endpoint, None);
        self.notify(&known);
    }

    /// Ends the suspensions of endpoints whose configuration has changed, and forgets endpoints that are off. A fingerprint is `None` where
    /// none is configured now. `all`: configurations have changed; else only what has changed here is looked at.
    pub fn follow(
        &self,
        all: bool,
        is_off: impl Fn(&EndpointKey) -> bool,
        fingerprint: impl Fn(&EndpointKey) -> Option<u64>,
        now: DateTime,
    ) {
        for (endpoint, suspended) in self.drain_unfollowed(all) {
            let is_off = is_off(&endpoint);
            let is_other = suspended
                .zip(fingerprint(&endpoint))
                .is_some_and(|(then, now)| then != now);
            if is_off || is_other {
                let mut known = self.0.known.lock();
                let episode = known.detach(&endpoint).filter(|_| !is_off);
                let after = episode.and_then(|episode| restarted(episode, now));
                known.attach(&endpoint, after, None, true);
                self.notify(&known);
            }
        }
    }

    /// Endpoints that fail, and the fingerprints of their configuration when they were suspended.
    fn drain_unfollowed(&self, all: bool) -> Vec<(EndpointKey, Option<u64>)> {
        let mut known = self.0.known.lock();
        let changed = std::mem::take(&mut known.unfollowed);
        let watched: Vec<_> = match all {
            true => known.endpoints.keys().cloned().collect(),
            false => changed.into_iter().collect(),
        };
        let with_fingerprint = |endpoint: EndpointKey| {
            let suspended = known.episode(&endpoint)?.suspended.as_ref();
            let fingerprint = suspended.map(|suspension| suspension.fingerprint);
            Some((endpoint, fingerprint))
        };
        watched.into_iter().filter_map(with_fingerprint).collect()
    }

    /// Ends the episodes that are over by `now`. Returns when the next one may end, or the next suspended endpoint is probed.
    pub fn tick(&self, now: DateTime) -> Option<DateTime> {
        let mut known = self.0.known.lock();
        let rules = known.rules;
        let latest_probe = later(now, known.probe_every.saturating_add(CLOCKS_DIFFER));
        known.probes.bring_forward(latest_probe, now);
        for endpoint in known.ends.due(now) {
            if let Some(episode) = known.detach(&endpoint) {
                let (after, told) = recovered(episode.clone(), now, &rules);
                known.attach(&endpoint, after, told.map(|told| (told, episode)), true);
            }
        }
        known.ends.next().into_iter().chain(known.probes.next()).min()
    }

    /// Removes and returns the endpoints for which something may be fetched since this was last asked: a probe is due by `now`, or the suspension has
    /// ended.
    pub fn drain_woken(&self, now: DateTime) -> Vec<EndpointKey> {
        let mut known = self.0.known.lock();
        let due = known.probes.due(now);
        due.iter().for_each(|endpoint| known.probes.set(endpoint, None));
        let resumed = std::mem::take(&mut known.resumed);
        due.into_iter().chain(resumed).collect()
    }

    /// The endpoints of which something must be written, of those that are assigned to this instance.
    pub fn unsaved(&self, is_assigned: impl Fn(&EndpointKey) -> bool) -> Vec<EndpointKey> {
        let known = self.0.known.lock();
        let unsaved = known.unsaved.iter().filter(|endpoint| is_assigned(endpoint));
        unsaved.cloned().collect()
    }

    /// What must be written of these endpoints. [`Episodes::saved`] or [`Episodes::reload`] says what became of it.
    pub fn unsaved_of(&self, endpoints: &[EndpointKey]) -> Vec<Unsaved> {
        let mut known = self.0.known.lock();
        let mut unsaved = Vec::new();
        for endpoint in endpoints {
            if !known.unsaved.contains(endpoint) {
                continue;
            }
            if let Some(tracked) = known.endpoints.get_mut(endpoint) {
                let one = Unsaved {
                    endpoint: endpoint.clone(),
                    episode: tracked.episode.clone(),
                    version: tracked.version,
                    told: tracked.told.clone(),
                    revision: tracked.revision,
                };
                tracked.in_doubt = Some(one.clone());
                unsaved.push(one);
            }
        }
        unsaved
    }

    /// To be called once it is written, with when the endpoint was suspended, if that has ended. Returns whether that is news: the document may
    /// have been read meanwhile.
    pub fn saved(&self, unsaved: &Unsaved, suspended: Option<Period>) -> bool {
        let mut known = self.0.known.lock();
        if let Some(period) = suspended {
            known.remember_one(&unsaved.endpoint, period);
        }
        known.saved(unsaved)
    }

    /// Judges whether nearly no receiver can be connected to. Returns it where that has changed.
    pub fn update_cut_off(&self) -> Option<bool> {
        let mut known = self.0.known.lock();
        let is_cut_off = known.judge_cut_off(Instant::now());
        (std::mem::replace(&mut known.is_cut_off, is_cut_off) != is_cut_off).then_some(is_cut_off)
    }

    /// Returns whether nearly no receiver can be connected to.
    fn note_connection(&self, known: &mut Known, endpoint: &EndpointKey, is_connected: bool) -> bool {
        let now = Instant::now();
        known.reach.note(endpoint.organization(), is_connected, now);
        // Not computed at each success while all is well.
        let is_cut_off = (known.is_cut_off || !is_connected) && known.judge_cut_off(now);
        if is_cut_off != known.is_cut_off {
            self.0.changed.notify_one();
        }
        is_cut_off
    }

    fn notify(&self, known: &Known) {
        self.0.suspended.store(known.suspended.len(), Ordering::Relaxed);
        if !known.unsaved.is_empty() {
            self.0.changed.notify_one();
        }
    }
}

/// Whether there was a connection to the endpoint.
fn is_connected(failure: &Failure) -> bool {
    failure.status.is_some() || failure.connect.is_some()
}

#[cfg(test)]
mod tests;
