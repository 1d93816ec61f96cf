//! Results that MongoDB refuses to count: at least they are named.

use std::collections::HashMap;
use std::time::Instant;

use tracing::error;

use crate::model::EndpointKey;
use crate::store::{Error, Pauses};

/// Per endpoint, results that are recorded and not counted, as far as they are not told of.
#[derive(Default)]
pub(super) struct LostCounts {
    untold: HashMap<EndpointKey, (usize, String)>,
    told: Pauses<EndpointKey>,
}

impl LostCounts {
    /// More of them: told of at once, and then at a growing interval.
    pub(super) fn add(&mut self, endpoint: &EndpointKey, results: usize, why: &Error, now: Instant) {
        let (untold, _) = self
            .untold
            .entry(endpoint.clone())
            .or_insert_with(|| (0, why.to_string()));
        *untold += results;
        if !self.told.has(endpoint, now) {
            self.told.refused(endpoint.clone(), now);
            self.tell(endpoint);
        }
    }

    /// Nothing more comes.
    pub(super) fn tell_all(&mut self) {
        let endpoints: Vec<_> = self.untold.keys().cloned().collect();
        endpoints.iter().for_each(|endpoint| self.tell(endpoint));
    }

    fn tell(&mut self, endpoint: &EndpointKey) {
        if let Some((results, error)) = self.untold.remove(endpoint) {
            error!(%endpoint, results, error, "MongoDB refuses the statistics: these results are recorded, but not counted in webhook_stats");
        }
    }
}
