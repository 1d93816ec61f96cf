//! How fast an endpoint is sent to: as it is configured (`concurrency`, `rateLimit`), and as its responses ask for.
//!
//! **Parallel requests.** A 429, 502, 503 or 504 halves them, down to one; every 20 successes allow one more, up to what is
//! configured. Example: five in flight, one 503: two at once from now on; after 60 successes five again.
//!
//! **Pause.** After a 429 or 503 with `Retry-After` nothing is sent to the endpoint for that long.
//!
//! **One bad payload** that always gets a 502, 503 or 504 must not slow the others: a retry slows and pauses its endpoint only if
//! nothing else has succeeded there since it was last slowed. A 429 always does.
//!
//! **Rate.** Requests begin at even distances, 1 % longer than `1 / rateLimit`, so that neither clocks nor the network make one too
//! many of them: `next = max(next, now - CATCH_UP) + 1.01 / rate`. Example: 100 per second is one every 10.1 ms; after a stall of a
//! second two begin at once.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::EndpointKey;

/// Successes after which an endpoint that was slowed gets one more request at a time.
const RAISE_AFTER: u32 = 20;

/// How much of the time that was lost by beginning late is made up for.
const CATCH_UP: Duration = Duration::from_millis(20);

/// What an endpoint's configuration says of its pace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConfiguredPace {
    /// Requests at once; `None`: as many as the operator allows.
    pub concurrency: Option<usize>,
    /// Requests per second; `None`: no limit.
    pub rate: Option<f64>,
}

/// The pace of the endpoints that are not sent to as fast as they can take it.
#[derive(Debug, Default)]
pub(super) struct Paces {
    paces: HashMap<EndpointKey, Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    /// Requests at once, since it was slowed.
    parallel: Option<usize>,
    /// Successes since `parallel` last changed.
    successes: u32,
    /// Whether anything has succeeded since it was last slowed.
    has_succeeded: bool,
    paused_until: Option<Instant>,
    /// When the last request was due, by the rate.
    last: Option<Instant>,
}

impl Pace {
    /// When the next request is due, by the rate as it is now: after a raise the old rate is not waited for.
    fn next(&self, configured: ConfiguredPace) -> Option<Instant> {
        self.last?.checked_add(Duration::from_secs_f64(1.01 / configured.rate?))
    }
}

impl Paces {
    /// How many requests are allowed at once; at most `configured`.
    pub(super) fn parallel(&self, endpoint: &EndpointKey, configured: usize) -> usize {
        let slowed = self.paces.get(endpoint).and_then(|pace| pace.parallel);
        slowed.unwrap_or(configured).min(configured)
    }

    /// When the next request may begin; `None`: now.
    pub(super) fn waits_until(
        &self,
        endpoint: &EndpointKey,
        configured: ConfiguredPace,
        now: Instant,
    ) -> Option<Instant> {
        let pace = self.paces.get(endpoint)?;
        pace.paused_until.max(pace.next(configured)).filter(|at| *at > now)
    }

    /// Until when nothing is sent, because a response asked for it.
    pub(super) fn paused_until(&self, endpoint: &EndpointKey) -> Option<Instant> {
        self.paces.get(endpoint)?.paused_until
    }

    pub(super) fn began(&mut self, endpoint: &EndpointKey, configured: ConfiguredPace, now: Instant) {
        if configured.rate.is_some() {
            let pace = self.paces.entry(endpoint.clone()).or_default();
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            pace.last = Some(pace.next(configured).map_or(now, |next| next.max(earliest)));
        } else if let Some(pace) = self.paces.get_mut(endpoint) {
            pace.last = None;
        }
    }

    pub(super) fn succeeded(&mut self, endpoint: &EndpointKey, configured: usize) {
        let Some(pace) = self.paces.get_mut(endpoint) else {
            return;
        };
        pace.has_succeeded = true;
        let Some(parallel) = pace.parallel else { return };
        pace.successes += 1;
        if pace.successes >= RAISE_AFTER {
            pace.successes = 0;
            pace.parallel = Some(parallel + 1).filter(|raised| *raised < configured);
        }
    }

    /// Halves the parallel requests and pauses the endpoint, where the response asks for that. Returns for how long it is paused.
    pub(super) fn failed(
        &mut self,
        endpoint: &EndpointKey,
        configured: usize,
        response: FailedResponse,
        now: Instant,
    ) -> Option<Duration> {
        if !matches!(response.status, 429 | 502 | 503 | 504) {
            return None;
        }
        let pace = self.paces.entry(endpoint.clone()).or_default();
        if response.is_retry && response.status != 429 && pace.has_succeeded {
            return None;
        }
        pace.has_succeeded = false;
        pace.successes = 0;
        let parallel = pace.parallel.unwrap_or(configured).min(configured);
        pace.parallel = Some((parallel / 2).max(1)).filter(|halved| *halved < configured);
        let pause = response.retry_after.filter(|pause| !pause.is_zero())?;
        self.pause(endpoint, now.checked_add(pause)?);
        Some(pause)
    }

    /// One request at a time: what has waited must not come all at once.
    pub(super) fn begin_gently(&mut self, endpoint: &EndpointKey) {
        let pace = self.paces.entry(endpoint.clone()).or_default();
        (pace.parallel, pace.successes) = (Some(1), 0);
    }

    /// Nothing is sent until then.
    pub(super) fn pause(&mut self, endpoint: &EndpointKey, until: Instant) {
        let pace = self.paces.entry(endpoint.clone()).or_default();
        pace.paused_until = pace.paused_until.max(Some(until));
    }

    /// Forgets all but these, and pauses that last: an endpoint that is assigned to this instance again is still paused.
    pub(super) fn retain(&mut self, keep: impl Fn(&EndpointKey) -> bool, now: Instant) {
        self.paces
            .retain(|endpoint, pace| pace.paused_until.is_some_and(|until| until > now) || keep(endpoint));
    }
}

/// A response that was not a success.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedResponse {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    /// Whether the delivery had failed before.
    pub(super) is_retry: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EndpointKey {
        EndpointKey::from_stored("a/1")
    }

    fn response(status: u16, is_retry: bool) -> FailedResponse {
        FailedResponse {
            status,
            retry_after: Some(Duration::from_secs(20)),
            is_retry,
        }
    }

    #[test]
    fn what_a_response_halves_comes_back_one_per_twenty_successes() {
        let mut paces = Paces::default();
        let now = Instant::now();
        let table = [
            (429, false, 2),
            (503, false, 1),
            (502, false, 1),
            (500, false, 1),
            (404, false, 1),
        ];
        for (status, is_retry, parallel) in table {
            paces.failed(&key(), 5, response(status, is_retry), now);
            assert_eq!(paces.parallel(&key(), 5), parallel, "{status}");
        }
        for raised in [2, 3, 4, 5, 5] {
            for _ in 0..RAISE_AFTER {
                paces.succeeded(&key(), 5);
            }
            assert_eq!(paces.parallel(&key(), 5), raised);
        }
        paces.failed(&key(), 5, response(504, false), now);
        assert_eq!(paces.parallel(&key(), 1), 1, "a configuration of one");
        assert_eq!(paces.parallel(&key(), 5), 2);
    }

    #[test]
    fn retry_after_pauses_and_the_longest_counts() {
        let mut paces = Paces::default();
        let now = Instant::now();
        let seconds = Duration::from_secs;
        assert_eq!(paces.failed(&key(), 5, response(429, false), now), Some(seconds(20)));
        assert_eq!(
            paces.waits_until(&key(), ConfiguredPace::default(), now),
            Some(now + seconds(20))
        );
        paces.pause(&key(), now + seconds(5));
        assert_eq!(
            paces.waits_until(&key(), ConfiguredPace::default(), now),
            Some(now + seconds(20))
        );
        assert_eq!(
            paces.waits_until(&key(), ConfiguredPace::default(), now + seconds(20)),
            None
        );
    }

    #[test]
    fn a_payload_that_always_fails_slows_the_others_once() {
        let mut paces = Paces::default();
        let now = Instant::now();
        assert!(paces.failed(&key(), 5, response(503, false), now).is_some());
        assert!(
            paces.failed(&key(), 5, response(503, true), now).is_some(),
            "nothing succeeded since"
        );
        paces.succeeded(&key(), 5);
        assert!(paces.failed(&key(), 5, response(503, true), now).is_none());
        assert!(
            paces.failed(&key(), 5, response(429, true), now).is_some(),
            "it is the endpoint's pace"
        );
        paces.succeeded(&key(), 5);
        assert!(
            paces.failed(&key(), 5, response(503, false), now).is_some(),
            "another payload"
        );
    }

    #[test]
    fn a_rate_is_kept_and_lost_time_made_up_for_a_little() {
        let mut paces = Paces::default();
        let start = Instant::now();
        let configured = ConfiguredPace {
            concurrency: None,
            rate: Some(100.0),
        };
        // Each wakes up 3 ms late.
        let mut now = start;
        let mut count = 0;
        while now < start + Duration::from_secs(1) {
            assert_eq!(paces.waits_until(&key(), configured, now), None);
            paces.began(&key(), configured, now);
            count += 1;
            now = paces.waits_until(&key(), configured, now).unwrap_or(now) + Duration::from_millis(3);
        }
        assert!((97..=100).contains(&count), "{count}");
        now += Duration::from_secs(10);
        let mut at_once = 0;
        while paces.waits_until(&key(), configured, now).is_none() {
            paces.began(&key(), configured, now);
            at_once += 1;
        }
        assert_eq!(at_once, 2, "after a stall");
    }

    #[test]
    fn a_rate_that_was_changed_counts_from_the_last_request_on() {
        let rate = |rate| ConfiguredPace {
            concurrency: None,
            rate,
        };
        let seconds = Duration::from_secs_f64;
        let table = [
            ("kept", Some(0.1), Some(10.1)),
            ("raised", Some(10.0), Some(0.101)),
            ("lowered", Some(0.01), Some(101.0)),
            ("taken away", None, None),
        ];
        for (what, now_is, expected) in table {
            let mut paces = Paces::default();
            let start = Instant::now();
            paces.began(&key(), rate(Some(0.1)), start);
            let waits = paces.waits_until(&key(), rate(now_is), start);
            assert_eq!(waits, expected.map(|wait| start + seconds(wait)), "{what}");
        }
    }
}
