//! The breaker of an endpoint: after [`THRESHOLD`] failures in a row it is probed, one request at a time and at most one a
//! second, until it answers.
//!
//! Each delivery keeps its own times for retries; where many wait for an endpoint that fails, they share the probes, and
//! meanwhile wait in the outbox, not in the queue.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::model::EndpointKey;

/// So many failures in a row open the breaker.
const THRESHOLD: u32 = 10;

/// The time between two probes.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The breakers of the endpoints that failed last.
#[derive(Debug, Default)]
pub(super) struct Breakers(HashMap<EndpointKey, Breaker>);

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    /// When it opened, and when it may be probed again.
    open: Option<(Instant, Instant)>,
}

impl Breakers {
    /// Whether the endpoint is only probed.
    pub(super) fn is_open(&self, endpoint: &EndpointKey) -> bool {
        self.0.get(endpoint).is_some_and(|breaker| breaker.open.is_some())
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.0.values().filter(|breaker| breaker.open.is_some()).count()
    }

    /// Whether an open one may be probed at `now`; if so, the next probe is [`PROBE_EVERY`] later.
    pub(super) fn may_probe(&mut self, endpoint: &EndpointKey, now: Instant) -> bool {
        match self.0.get_mut(endpoint).and_then(|breaker| breaker.open.as_mut()) {
            Some((_, next)) if *next <= now => {
                *next = now + PROBE_EVERY;
                true
            }
            _ => false,
        }
    }

    /// The endpoint answered.
    pub(super) fn succeeded(&mut self, endpoint: &EndpointKey) {
        if let Some(Breaker {
            open: Some((since, _)), ..
        }) = self.0.remove(endpoint)
        {
            let outage_s = since.elapsed().as_secs();
            info!(
                owner = endpoint.owner(),
                endpoint = endpoint.endpoint(),
                outage_s,
                "the endpoint answers again"
            );
        }
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, endpoint: &EndpointKey, now: Instant) {
        let breaker = self.0.entry(endpoint.clone()).or_default();
        breaker.failures += 1;
        if breaker.failures >= THRESHOLD && breaker.open.is_none() {
            breaker.open = Some((now, now + PROBE_EVERY));
            warn!(
                owner = endpoint.owner(),
                endpoint = endpoint.endpoint(),
                "the endpoint failed {THRESHOLD} times in a row: from now on it is probed, its deliveries wait in the outbox"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> (Breakers, EndpointKey, Instant) {
        let (mut breakers, endpoint, now) = (Breakers::default(), EndpointKey::from_stored("a/b"), Instant::now());
        for _ in 1..THRESHOLD {
            breakers.failed(&endpoint, now);
            assert!(!breakers.is_open(&endpoint));
        }
        breakers.failed(&endpoint, now);
        assert!(breakers.is_open(&endpoint), "the tenth opens it");
        (breakers, endpoint, now)
    }

    #[test]
    fn an_open_one_is_probed_once_a_second() {
        let (mut breakers, endpoint, now) = opened();
        assert!(!breakers.may_probe(&endpoint, now));
        assert!(breakers.may_probe(&endpoint, now + PROBE_EVERY));
        assert!(!breakers.may_probe(&endpoint, now + PROBE_EVERY));
        assert!(breakers.may_probe(&endpoint, now + PROBE_EVERY * 2));
    }

    #[test]
    fn one_answer_closes_it_and_the_count_begins_anew() {
        let (mut breakers, endpoint, now) = opened();
        breakers.succeeded(&endpoint);
        assert!(!breakers.is_open(&endpoint) && breakers.open() == 0);
        breakers.failed(&endpoint, now);
        assert!(!breakers.is_open(&endpoint));
    }
}
