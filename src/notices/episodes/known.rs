//! What is in memory of the endpoints that fail.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{EndpointKey, Period};
use crate::notices::document::Noted;
use crate::notices::episode::{Episode, Rules, Told};
use crate::notices::reach::Reach;

/// Changes of figures that decide nothing, such as the number of failures, are written this often.
const SAVE_EVERY: Duration = Duration::from_secs(600);

/// An organization that could be connected to this long ago counts as reached, although a connection has failed since.
const RECENT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Known {
    pub(super) rules: Rules,
    pub(super) endpoints: HashMap<EndpointKey, Tracked>,
    /// Those of them that must be written.
    pub(super) unsaved: HashSet<EndpointKey>,
    /// How many of them are suspended.
    pub(super) suspended: usize,
    /// When endpoints were suspended before.
    pub(super) past: HashMap<EndpointKey, Vec<Period>>,
    pub(super) reach: Reach,
    /// Whether the operator was told that nearly no receiver can be connected to.
    pub(super) is_cut_off: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub(super) episode: Option<Episode>,
    /// The version of its document when it was last read or written.
    pub(super) version: i64,
    /// Raised by every change here.
    pub(super) revision: u64,
    pub(super) saved_at: Option<Instant>,
    /// What the platform must be told, with the episode as it was then.
    pub(super) told: Vec<(Told, Episode)>,
}

impl Known {
    /// Takes the episode out, to change it. [`Known::attach`] must follow.
    pub(super) fn detach(&mut self, endpoint: &EndpointKey) -> Option<Episode> {
        let episode = self.endpoints.get_mut(endpoint)?.episode.take()?;
        self.suspended -= usize::from(episode.suspended.is_some());
        Some(episode)
    }

    pub(super) fn attach(
        &mut self,
        endpoint: &EndpointKey,
        episode: Option<Episode>,
        told: impl IntoIterator<Item = (Told, Episode)>,
        is_news: bool,
    ) {
        self.suspended += usize::from(episode.as_ref().is_some_and(|episode| episode.suspended.is_some()));
        let tracked = self.endpoints.entry(endpoint.clone()).or_default();
        tracked.episode = episode;
        tracked.told.extend(told);
        tracked.revision += 1;
        if tracked.must_be_saved(is_news) {
            self.unsaved.insert(endpoint.clone());
        } else if !tracked.is_needed() {
            self.endpoints.remove(endpoint);
        }
    }

    pub(super) fn replace(&mut self, endpoint: &EndpointKey, tracked: Option<Tracked>) {
        self.detach(endpoint);
        self.unsaved.remove(endpoint);
        let is_suspended = |tracked: &Tracked| tracked.episode.as_ref().is_some_and(|one| one.suspended.is_some());
        self.suspended += usize::from(tracked.as_ref().is_some_and(is_suspended));
        match tracked {
            Some(tracked) => drop(self.endpoints.insert(endpoint.clone(), tracked)),
            None => drop(self.endpoints.remove(endpoint)),
        }
    }

    /// Forgets those that are another instance's.
    pub(super) fn forget(&mut self, is_foreign: impl Fn(&EndpointKey) -> bool) {
        let foreign: Vec<_> = self
            .endpoints
            .keys()
            .filter(|endpoint| is_foreign(endpoint))
            .cloned()
            .collect();
        foreign.iter().for_each(|endpoint| self.replace(endpoint, None));
    }

    /// What a document says of earlier suspensions, unless more is known.
    pub(super) fn remember(&mut self, endpoint: &EndpointKey, past: &[Period]) {
        let known = self.past.get(endpoint).and_then(|known| known.last());
        if !past.is_empty() && past.last() >= known {
            self.past.insert(endpoint.clone(), past.to_vec());
        }
    }

    pub(super) fn recent(&self) -> Duration {
        RECENT.min(self.rules.failing_after / 2)
    }

    pub(super) fn is_cut_off(&mut self, now: Instant) -> bool {
        let recent = self.recent();
        self.reach.is_cut_off(recent, now)
    }
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

    /// Whether there is something to remember, here or in its document.
    pub(super) fn is_needed(&self) -> bool {
        self.episode.is_some() || self.version > 0 || !self.told.is_empty()
    }
}
