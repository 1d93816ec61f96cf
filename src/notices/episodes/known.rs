//! What is in memory of the endpoints that fail.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::EndpointKey;
use crate::notices::document::Noted;
use crate::notices::episode::{Episode, Rules, Told};
use crate::notices::reach::Reach;

/// Figures that decide nothing are written this often.
const SAVE_EVERY: Duration = Duration::from_secs(600);

/// Who can't be connected to now may have been reached this long ago.
const LATELY: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Known {
    pub(super) rules: Rules,
    pub(super) endpoints: HashMap<EndpointKey, Tracked>,
    /// Those of them that must be written.
    pub(super) unsaved: HashSet<EndpointKey>,
    /// How many of them are suspended.
    pub(super) suspended: usize,
    pub(super) reach: Reach,
    /// Whether the operator was told that nearly no receiver can be connected to.
    pub(super) is_lost: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub(super) episode: Option<Episode>,
    /// As its document says, or said.
    pub(super) version: i64,
    /// Raised by every change here.
    pub(super) revision: u64,
    pub(super) saved_at: Option<Instant>,
    /// What the platform is to be told, with the episode as it was then.
    pub(super) told: Vec<(Told, Episode)>,
}

impl Known {
    /// [`Known::put`] must follow.
    pub(super) fn take(&mut self, endpoint: &EndpointKey) -> Option<Episode> {
        let episode = self.endpoints.get_mut(endpoint)?.episode.take()?;
        self.suspended -= usize::from(episode.suspended.is_some());
        Some(episode)
    }

    pub(super) fn put(
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
        self.take(endpoint);
        self.unsaved.remove(endpoint);
        let is_suspended = |tracked: &Tracked| tracked.episode.as_ref().is_some_and(|one| one.suspended.is_some());
        self.suspended += usize::from(tracked.as_ref().is_some_and(is_suspended));
        match tracked {
            Some(tracked) => drop(self.endpoints.insert(endpoint.clone(), tracked)),
            None => drop(self.endpoints.remove(endpoint)),
        }
    }

    /// Forgets those that are another instance's.
    pub(super) fn forget(&mut self, is_lost: impl Fn(&EndpointKey) -> bool) {
        let lost: Vec<_> = self
            .endpoints
            .keys()
            .filter(|endpoint| is_lost(endpoint))
            .cloned()
            .collect();
        lost.iter().for_each(|endpoint| self.replace(endpoint, None));
    }

    pub(super) fn lately(&self) -> Duration {
        LATELY.min(self.rules.failing_after / 2)
    }

    pub(super) fn is_lost(&mut self, now: Instant) -> bool {
        let lately = self.lately();
        self.reach.is_lost(lately, now)
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
