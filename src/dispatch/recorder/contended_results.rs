//! Results of batches to which somebody else writes, such as a transaction that stays open after its instance died: they are tried
//! again beside what comes meanwhile, and nothing waits for them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::write_results::ResultSet;
use crate::failpoint;
use crate::model::EndpointKey;
use crate::store::Error;

/// They are tried again after this time, then after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// After this time it is logged. MongoDB itself ends a transaction after a minute, unless `transactionLifetimeLimitSeconds` says otherwise.
const LOG_AFTER: Duration = Duration::from_secs(60);

pub(super) struct ContendedResults {
    sets: Vec<ResultSet>,
    tried: u32,
    due: Option<Instant>,
    /// The endpoints of these sets.
    episodes: HashMap<EndpointKey, Episode>,
    log_after: Duration,
}

/// Results of an endpoint meet conflicts.
struct Episode {
    since: Instant,
    is_logged: bool,
}

impl ContendedResults {
    pub(super) fn new() -> Self {
        Self {
            sets: Vec::new(),
            tried: 0,
            due: None,
            episodes: HashMap::new(),
            log_after: failpoint::limit("contended-log", LOG_AFTER),
        }
    }

    /// Keeps results of one endpoint that met this conflict.
    pub(super) fn add(&mut self, set: ResultSet, why: &Error) {
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.tried.min(10));
        self.due
            .get_or_insert_with(|| Instant::now() + pause.min(LONGEST_PAUSE));
        self.note(&set, why);
        self.sets.push(set);
    }

    /// Logs an endpoint whose results have met conflicts for long, once until they meet none.
    fn note(&mut self, set: &ResultSet, why: &Error) {
        let Some(endpoint) = set.endpoints().next() else { return };
        let episode = self.episodes.entry(endpoint.clone()).or_insert_with(|| Episode {
            since: Instant::now(),
            is_logged: false,
        });
        let lasts = episode.since.elapsed();
        if episode.is_logged || lasts < self.log_after {
            return;
        }
        episode.is_logged = true;
        warn!(
            organization = endpoint.organization(), endpoint = endpoint.endpoint(), delivery = set.batch(), results = set.len(), error = %why,
            "somebody else's transaction has kept results of this endpoint from being recorded for {} s: they are tried again every {} s, the others go on",
            lasts.as_secs(), LONGEST_PAUSE.as_secs()
        );
    }

    /// What was removed has been tried again: the endpoints of which nothing came back meet conflicts no more.
    pub(super) fn end_episodes(&mut self) {
        if self.episodes.is_empty() {
            return;
        }
        let left: HashSet<_> = self.sets.iter().flat_map(ResultSet::endpoints).collect();
        self.episodes.retain(|endpoint, episode| {
            let goes_on = left.contains(endpoint);
            if !goes_on && episode.is_logged {
                info!(
                    organization = endpoint.organization(),
                    endpoint = endpoint.endpoint(),
                    seconds = episode.since.elapsed().as_secs(),
                    "results of this endpoint are recorded again"
                );
            }
            goes_on
        });
    }

    /// When they are tried again; `None` if there are none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Removes them, if it is time to try them again. Those that meet a conflict again come back by [`ContendedResults::add`].
    pub(super) fn remove_due(&mut self) -> Vec<ResultSet> {
        match self.due {
            None => self.tried = 0,
            Some(due) if due > Instant::now() => return Vec::new(),
            Some(_) => self.tried += 1,
        }
        self.due = None;
        std::mem::take(&mut self.sets)
    }
}
