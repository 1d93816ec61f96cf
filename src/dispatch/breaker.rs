//! What this instance knows of an endpoint's health: whether it is known to answer, and its circuit breaker.
//!
//! The breaker opens after [`THRESHOLD`] failures in a row, or at the first that concerns every delivery (a mail server that can't be
//! connected to): from then on the endpoint is probed, one request at a time and at most one a second, until it answers. Each delivery
//! keeps its own times for retries; where many wait for an endpoint that fails, they share the probes.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::model::EndpointKey;

/// This many failures in a row open the breaker.
const THRESHOLD: u32 = 10;

/// The time between two probes.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The health of the endpoints that are assigned to this instance, as far as it has sent to them.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    health: HashMap<EndpointKey, Health>,
}

#[derive(Debug, Default)]
struct Health {
    answers: bool,
    failures: u32,
    open: Option<OpenBreaker>,
}

#[derive(Clone, Copy, Debug)]
struct OpenBreaker {
    since: Instant,
    /// When the next probe may go out.
    next_probe: Instant,
}

impl Breakers {
    /// Whether the endpoint is known to answer: it did since it was assigned, and its last attempt did not time out.
    pub(super) fn answers(&self, endpoint: &EndpointKey) -> bool {
        self.health.get(endpoint).is_some_and(Health::is_known_to_answer)
    }

    /// Whether nothing but probes is sent to the endpoint.
    pub(super) fn is_open(&self, endpoint: &EndpointKey) -> bool {
        self.health.get(endpoint).is_some_and(|health| health.open.is_some())
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &EndpointKey> {
        let open = self.health.iter().filter(|(_, health)| health.open.is_some());
        open.map(|(endpoint, _)| endpoint)
    }

    /// When an open breaker lets the next probe out.
    pub(super) fn next_probe(&self, endpoint: &EndpointKey) -> Option<Instant> {
        Some(self.health.get(endpoint)?.open?.next_probe)
    }

    /// A probe of an endpoint whose breaker is open goes out.
    pub(super) fn probed(&mut self, endpoint: &EndpointKey, now: Instant) {
        if let Some(open) = self.health.get_mut(endpoint).and_then(|health| health.open.as_mut()) {
            open.next_probe = now + PROBE_EVERY;
        }
    }

    /// The endpoint answered. Returns whether it was not known to answer before.
    pub(super) fn succeeded(&mut self, endpoint: &EndpointKey) -> bool {
        let before = self.health.insert(
            endpoint.clone(),
            Health {
                answers: true,
                ..Health::default()
            },
        );
        let before = before.unwrap_or_default();
        if let Some(open) = before.open {
            let outage_s = open.since.elapsed().as_secs();
            info!(
                organization = endpoint.organization(),
                endpoint = endpoint.endpoint(),
                outage_s,
                "the endpoint answers again"
            );
        }
        !before.is_known_to_answer()
    }

    /// An attempt failed. Returns whether the endpoint is not known to answer any more.
    pub(super) fn failed(&mut self, endpoint: &EndpointKey, timed_out: bool, now: Instant) -> bool {
        let health = self.health.entry(endpoint.clone()).or_default();
        let before = health.is_known_to_answer();
        health.failures += 1;
        health.answers &= !timed_out;
        if health.failures >= THRESHOLD && health.open_breaker(now) {
            warn!(
                organization = endpoint.organization(),
                endpoint = endpoint.endpoint(),
                "the endpoint failed {THRESHOLD} times in a row: from now on it is probed once a second, its deliveries wait in the outbox"
            );
        }
        before && !health.is_known_to_answer()
    }

    /// An attempt failed in a way that concerns every delivery. Returns whether the endpoint is not known to answer any more.
    pub(super) fn failed_altogether(&mut self, endpoint: &EndpointKey, reason: &str, now: Instant) -> bool {
        let health = self.health.entry(endpoint.clone()).or_default();
        let before = health.is_known_to_answer();
        if health.open_breaker(now) {
            warn!(
                organization = endpoint.organization(),
                endpoint = endpoint.endpoint(),
                reason,
                "the mail server can't be used: e-mails wait in the outbox, one is tried each second"
            );
        }
        before
    }

    /// The endpoint is no longer assigned to this instance, or is switched off.
    pub(super) fn forget(&mut self, endpoint: &EndpointKey) {
        self.health.remove(endpoint);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&EndpointKey) -> bool) {
        self.health.retain(|endpoint, _| keep(endpoint));
    }
}

impl Health {
    /// Opens the breaker. Returns whether it was closed.
    fn open_breaker(&mut self, now: Instant) -> bool {
        let was_closed = self.open.is_none();
        self.open.get_or_insert(OpenBreaker {
            since: now,
            next_probe: now + PROBE_EVERY,
        });
        was_closed
    }

    fn is_known_to_answer(&self) -> bool {
        self.answers && self.open.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> (Breakers, EndpointKey, Instant) {
        let mut breakers = Breakers::default();
        let endpoint = EndpointKey::from_stored("a/b");
        let now = Instant::now();
        for _ in 1..THRESHOLD {
            breakers.failed(&endpoint, false, now);
            assert!(!breakers.is_open(&endpoint));
        }
        breakers.failed(&endpoint, false, now);
        assert!(breakers.is_open(&endpoint), "the tenth opens it");
        (breakers, endpoint, now)
    }

    #[test]
    fn an_open_one_is_probed_once_a_second() {
        let (mut breakers, endpoint, now) = opened();
        assert_eq!(breakers.next_probe(&endpoint), Some(now + PROBE_EVERY));
        breakers.probed(&endpoint, now + PROBE_EVERY);
        assert_eq!(breakers.next_probe(&endpoint), Some(now + PROBE_EVERY * 2));
    }

    #[test]
    fn one_success_closes_it_and_the_count_begins_anew() {
        let (mut breakers, endpoint, now) = opened();
        assert!(breakers.succeeded(&endpoint));
        assert!(!breakers.is_open(&endpoint) && breakers.open().count() == 0);
        breakers.failed(&endpoint, false, now);
        assert!(!breakers.is_open(&endpoint));
    }

    #[test]
    fn a_failure_that_concerns_every_delivery_opens_it_at_once() {
        let mut breakers = Breakers::default();
        let endpoint = EndpointKey::from_stored("all/email");
        let now = Instant::now();
        breakers.succeeded(&endpoint);
        assert!(breakers.failed_altogether(&endpoint, "connection refused", now));
        assert_eq!(breakers.next_probe(&endpoint), Some(now + PROBE_EVERY));
        breakers.probed(&endpoint, now + PROBE_EVERY);
        assert!(!breakers.failed_altogether(&endpoint, "connection refused", now + PROBE_EVERY));
        assert_eq!(breakers.next_probe(&endpoint), Some(now + PROBE_EVERY * 2));
        assert!(breakers.succeeded(&endpoint));
        assert!(!breakers.is_open(&endpoint));
    }

    #[test]
    fn an_endpoint_is_known_to_answer_from_a_success_until_a_timeout() {
        let mut breakers = Breakers::default();
        let endpoint = EndpointKey::from_stored("a/b");
        let now = Instant::now();
        assert!(!breakers.answers(&endpoint), "nothing is known of it");
        assert!(!breakers.failed(&endpoint, false, now), "nothing is known of it yet");
        assert!(breakers.succeeded(&endpoint));
        assert!(breakers.answers(&endpoint));
        assert!(!breakers.succeeded(&endpoint), "no news");
        assert!(!breakers.failed(&endpoint, false, now));
        assert!(breakers.answers(&endpoint), "it fails, and does so at once");
        assert!(breakers.failed(&endpoint, true, now));
        assert!(!breakers.answers(&endpoint));
        breakers.succeeded(&endpoint);
        breakers.forget(&endpoint);
        assert!(!breakers.answers(&endpoint), "assigned anew, it must show it again");
    }
}
