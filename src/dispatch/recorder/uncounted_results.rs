//! Results that MongoDB records and does not count in the statistics: they are logged.

use std::collections::HashMap;
use std::time::Instant;

use tracing::error;

use crate::model::EndpointKey;
use crate::store::{Error, Pauses};

#[derive(Default)]
pub(super) struct UncountedResults {
    /// Those that are not logged yet.
    unlogged: HashMap<EndpointKey, Unlogged>,
    logged: Pauses<EndpointKey>,
}

struct Unlogged {
    results: usize,
    error: String,
}

impl UncountedResults {
    /// Logs them at once, and those that follow at growing intervals.
    pub(super) fn add(&mut self, endpoint: &EndpointKey, results: usize, why: &Error, now: Instant) {
        let unlogged = self.unlogged.entry(endpoint.clone()).or_insert_with(|| Unlogged {
            results: 0,
            error: why.to_string(),
        });
        unlogged.results += results;
        if !self.logged.has(endpoint, now) {
            self.logged.refused(endpoint.clone(), now);
            self.log(endpoint);
        }
    }

    pub(super) fn log_all(&mut self) {
        let endpoints: Vec<_> = self.unlogged.keys().cloned().collect();
        endpoints.iter().for_each(|endpoint| self.log(endpoint));
    }

    fn log(&mut self, endpoint: &EndpointKey) {
        if let Some(Unlogged { results, error }) = self.unlogged.remove(endpoint) {
            error!(%endpoint, results, error, "MongoDB refuses the statistics: these results are recorded, but not counted in webhook_stats");
        }
    }
}
