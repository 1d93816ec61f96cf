//! What is in memory of the endpoints that fail.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bson::DateTime;
use tokio::time::Instant;

use super::unsaved::Unsaved;
use crate::model::{Dues, EndpointKey, Period, later};
use crate::notices::document::{Noted, PAST_SUSPENSIONS};
use crate::notices::episode::{Episode, Rules, Told, succeeded};
use crate::notices::reach::Reach;

/// Changes of figures that decide nothing, such as the number of failures, are written this often.
const SAVE_EVERY: Duration = Duration::from_secs(600);

/// An organization that could be connected to this long ago counts as reached, although a connection has failed since.
const RECENT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Known {
    pub(super) rules: Rules,
    pub(super) probe_every: Duration,
    pub(super) endpoints: HashMap<EndpointKey, Tracked>,
    /// Those of them that must be written.
    pub(super) unsaved: HashSet<EndpointKey>,
    /// Those of them that are suspended.
    pub(super) suspended: HashSet<EndpointKey>,
    /// Those whose suspension has ended since this was last asked.
    pub(super) resumed: HashSet<EndpointKey>,
    /// Those that have changed since the endpoints' configuration was last looked at.
    pub(super) unfollowed: HashSet<EndpointKey>,
    /// When episodes may end.
    pub(super) ends: Dues<DateTime>,
    /// When suspended endpoints are probed.
    pub(super) probes: Dues<DateTime>,
    /// When endpoints were suspended before.
    pub(super) past: HashMap<EndpointKey, Vec<Period>>,
    pub(super) reach: Reach,
    /// Whether the operator was told that nearly no receiver can be connected to.
    pub(super) is_cut_off: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub(super) episode: Option<Episode>,
    /// The version of the episode document when it was last read or written.
    pub(super) version: i64,
    /// Raised by every change here.
    pub(super) revision: u64,
    pub(super) saved_at: Option<Instant>,
    /// What the platform must be told, with the episode as it was then.
    pub(super) told: Vec<(Told, Episode)>,
    /// What was last to be written: it may have been, although no reply said so.
    pub(super) in_doubt: Option<Unsaved>,
    /// When a delivery was last accepted, since the document was read.
    pub(super) succeeded_at: Option<DateTime>,
}

impl Known {
    pub(super) fn new(rules: Rules, probe_every: Duration) -> Self {
        Self {
            rules,
            probe_every,
            endpoints: HashMap::new(),
            unsaved: HashSet::new(),
            suspended: HashSet::new(),
            resumed: HashSet::new(),
            unfollowed: HashSet::new(),
            ends: Dues::default(),
            probes: Dues::default(),
            past: HashMap::new(),
            reach: Reach::default(),
            is_cut_off: false,
        }
    }

    pub(super) fn episode(&self, endpoint: &EndpointKey) -> Option<&Episode> {
        self.endpoints.get(endpoint)?.episode.as_ref()
    }

    /// Takes the episode out, to change it. [`Known::attach`] must follow.
    pub(super) fn detach(&mut self, endpoint: &EndpointKey) -> Option<Episode> {
        self.endpoints.get_mut(endpoint)?.episode.take()
    }

    pub(super) fn attach(
        &mut self,
        endpoint: &EndpointKey,
        episode: Option<Episode>,
        told: impl IntoIterator<Item = (Told, Episode)>,
        is_news: bool,
    ) {
        let tracked = self.endpoints.entry(endpoint.clone()).or_default();
        tracked.episode = episode;
        tracked.told.extend(told);
        tracked.revision += 1;
        if tracked.must_be_saved(is_news) {
            self.unsaved.insert(endpoint.clone());
        } else if !tracked.is_needed() {
            self.endpoints.remove(endpoint);
        }
        self.index(endpoint);
    }

    pub(super) fn replace(&mut self, endpoint: &EndpointKey, tracked: Option<Tracked>) {
        self.unsaved.remove(endpoint);
        match tracked {
            Some(tracked) => drop(self.endpoints.insert(endpoint.clone(), tracked)),
            None => drop(self.endpoints.remove(endpoint)),
        }
        self.index(endpoint);
    }

    /// Notes that the endpoint's episode was changed where it is, and must be written.
    pub(super) fn changed(&mut self, endpoint: &EndpointKey) {
        if let Some(tracked) = self.endpoints.get_mut(endpoint) {
            tracked.revision += 1;
            self.unsaved.insert(endpoint.clone());
        }
        self.index(endpoint);
    }

    /// Must follow every change of an episode.
    pub(super) fn index(&mut self, endpoint: &EndpointKey) {
        let episode = self.endpoints.get(endpoint).and_then(|one| one.episode.as_ref());
        let suspension = episode.and_then(|episode| episode.suspended.as_ref());
        let end = episode.and_then(|episode| episode.ends_at(&self.rules));
        // Not `next_probe`: `Episodes::tick` brings forward what a wrong clock has set.
        let probe = suspension.map(|suspension| later(suspension.last_probe(), self.probe_every));
        match episode {
            Some(_) => self.unfollowed.insert(endpoint.clone()),
            None => self.unfollowed.remove(endpoint),
        };
        self.ends.set(endpoint, end);
        self.probes.set(endpoint, probe);
        if probe.is_some() {
            self.suspended.insert(endpoint.clone());
            self.resumed.remove(endpoint);
        } else if self.suspended.remove(endpoint) {
            self.resumed.insert(endpoint.clone());
        }
    }

    /// Forgets those that are another instance's.
    pub(super) fn forget(&mut self, is_foreign: impl Fn(&EndpointKey) -> bool) {
        let foreign = self.endpoints.keys().filter(|endpoint| is_foreign(endpoint));
        let foreign: Vec<_> = foreign.cloned().collect();
        for endpoint in &foreign {
            self.replace(endpoint, None);
            self.resumed.remove(endpoint);
        }
    }

    /// Takes over what the episode document says, and keeps what this instance knows beyond that: what the platform must still be told of
    /// the same episode, and a later success. Returns what this instance has written, where it turns out now that it has.
    pub(super) fn take_over(&mut self, endpoint: &EndpointKey, noted: Option<Noted>) -> Option<Unsaved> {
        noted.iter().for_each(|noted| self.remember(endpoint, &noted.past));
        let before = self.endpoints.get(endpoint);
        let written = before.and_then(|before| before.in_doubt.clone());
        if let Some(written) = written.filter(|written| written.is_in(noted.as_ref())) {
            self.saved(&written);
            return Some(written);
        }
        let before = self.endpoints.remove(endpoint).unwrap_or_default();
        let noted = noted.filter(|noted| noted.version > 0);
        self.replace(endpoint, noted.map(Tracked::loaded));
        let rules = self.rules;
        if let Some(mut episode) = self.detach(endpoint) {
            let told: Vec<_> = before.told.into_iter().filter(|told| is_in(told, &episode)).collect();
            episode.is_told |= !told.is_empty();
            self.attach(endpoint, Some(episode), told, false);
        }
        before
            .succeeded_at
            .into_iter()
            .for_each(|at| self.apply_success(endpoint, at, &rules));
        None
    }

    /// When a delivery was last accepted; `None`: one has failed since.
    pub(super) fn note_success(&mut self, endpoint: &EndpointKey, at: Option<DateTime>) {
        if let Some(tracked) = self.endpoints.get_mut(endpoint) {
            tracked.succeeded_at = at;
        }
    }

    /// Whether the episode document says something that is not known here.
    pub(super) fn is_news(&self, endpoint: &EndpointKey, noted: &Noted) -> bool {
        let known = self.endpoints.get(endpoint);
        noted.version > 0 && known.is_none_or(|known| known.version < noted.version)
    }

    /// A delivery was accepted then, which the episode document may not say.
    pub(super) fn apply_success(&mut self, endpoint: &EndpointKey, at: DateTime, rules: &Rules) {
        let is_later = |episode: &Episode| at > episode.last.at && Some(at) > episode.well_since;
        if self.episode(endpoint).is_some_and(is_later)
            && let Some(episode) = self.detach(endpoint)
        {
            let (after, told) = succeeded(episode.clone(), at, rules);
            self.attach(endpoint, after, told.map(|told| (told, episode)), true);
        }
    }

    /// This is in the episode document now. Returns whether it was not known to be.
    pub(super) fn saved(&mut self, unsaved: &Unsaved) -> bool {
        let Some(tracked) = self.endpoints.get_mut(&unsaved.endpoint) else {
            return false;
        };
        // The episode document was read meanwhile.
        let Some(written) = tracked.in_doubt.take_if(|written| written.revision == unsaved.revision) else {
            return false;
        };
        tracked.version = written.version_after();
        tracked.told.drain(..written.told.len().min(tracked.told.len()));
        tracked.saved_at = Some(Instant::now());
        if tracked.revision == written.revision {
            let is_needed = tracked.is_needed();
            self.unsaved.remove(&unsaved.endpoint);
            if !is_needed {
                self.endpoints.remove(&unsaved.endpoint);
            }
        }
        true
    }

    /// What an episode document says of earlier suspensions, unless more is known.
    pub(super) fn remember(&mut self, endpoint: &EndpointKey, past: &[Period]) {
        let known = self.past.get(endpoint).and_then(|known| known.last());
        if !past.is_empty() && past.last() >= known {
            self.past.insert(endpoint.clone(), past.to_vec());
        }
    }

    /// As many are kept as in the episode document.
    pub(super) fn remember_one(&mut self, endpoint: &EndpointKey, suspended: Period) {
        let past = self.past.entry(endpoint.clone()).or_default();
        past.push(suspended);
        let kept = usize::try_from(PAST_SUSPENSIONS).unwrap_or(usize::MAX);
        past.drain(..past.len().saturating_sub(kept));
    }

    pub(super) fn judge_cut_off(&mut self, now: Instant) -> bool {
        self.reach.judge_cut_off(RECENT.min(self.rules.failing_after / 2), now)
    }
}

/// Whether the platform must still be told that, where another has written this episode meanwhile: its id is the same whoever tells it.
/// A suspension that was not written is none: the endpoint is served.
fn is_in((told, then): &(Told, Episode), episode: &Episode) -> bool {
    let is_told = match told {
        Told::Failing => true,
        Told::Suspended(suspension) => {
            let written = episode.suspended.as_ref();
            written.is_some_and(|written| written.since == suspension.since)
        }
        Told::Recovered => false,
    };
    is_told && then.since == episode.since
}

impl Tracked {
    pub(super) fn loaded(noted: Noted) -> Self {
        Self {
            episode: noted.episode,
            version: noted.version,
            saved_at: Some(Instant::now()),
            ..Self::default()
        }
    }

    pub(super) fn must_be_saved(&self, is_news: bool) -> bool {
        let is_old = self.saved_at.is_some_and(|at| at.elapsed() >= SAVE_EVERY);
        let has_ended = self.episode.is_none() && self.version > 0;
        let is_there = self.episode.is_some() || self.version > 0;
        has_ended || !self.told.is_empty() || (is_there && (is_news || is_old))
    }

    /// Whether there is something to remember, here or in the episode document.
    pub(super) fn is_needed(&self) -> bool {
        self.episode.is_some() || self.version > 0 || !self.told.is_empty()
    }
}
