//! Dead letters that go out again by themselves: an ordinary outage of a receiver needs no operator.
//!
//! While an endpoint fails, its oldest dead letter goes out about once a minute; once the endpoint accepts one, the others follow, the
//! oldest first, about ten a second. How often the dead letters are looked for depends on how many endpoints have some.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::DateTime;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::Engine;
use super::upkeep::MOST_REFUSED;
use crate::dispatch::EndpointState;
use crate::failpoint;
use crate::model::{EndpointKey, counted_back, later, sleep_about};
use crate::outbox::{DocumentState, Head, Redriven};
use crate::store::{Error, Kind, Pauses, Result};

/// How often the outbox is asked for dead letters that may go out again.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// After a look that sent nothing again the next follows after this time per endpoint that has dead letters, at least after [`LOOK_EVERY`]
/// and at most after [`LONGEST_REST`]: a look takes a hundredth of that.
const REST: Duration = Duration::from_millis(6);

const LONGEST_REST: Duration = Duration::from_secs(60);

/// Where no endpoint that has dead letters is served, that rest is this many times as long: [`Engine::redrive_now`] ends it when one may be. A
/// delivery that dies meanwhile, and the probe of a suspended endpoint for which only dead letters wait, wait for the end of it.
const REST_UNSERVED: u32 = 4;

/// An endpoint that has accepted none of its dead letters yet gets one this often.
const ONE_EVERY: Duration = Duration::from_secs(60);

/// This many go to an endpoint that accepts them, per look: ten a second.
const PER_LOOK: i64 = 50;

/// The dead letters of an endpoint that were last made pending again.
struct LastRedrive {
    at: tokio::time::Instant,
    /// The last of them. `None`: none of the endpoint's may go out again, and all had to be read to know it.
    id: Option<String>,
}

/// What was redriven, and what can't be.
#[derive(Default)]
struct Redrives {
    last: HashMap<EndpointKey, LastRedrive>,
    /// Endpoints whose dead letters MongoDB refuses to change.
    refused: Pauses<EndpointKey>,
    /// How many endpoints the last look found.
    looked: usize,
    /// What it did.
    outcome: Outcome,
}

/// What a look for dead letters did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Nothing: none that are young enough are of endpoints that are served or to be probed.
    #[default]
    NoneServed,
    /// Nothing: of none that are it was time yet, or MongoDB refused.
    NoneDue,
    /// Some go out again.
    Sent,
}

/// By the `_id` of the document.
type States = HashMap<String, DocumentState>;

/// Sends dead letters again until `stop`.
pub(super) async fn redrive(engine: Arc<Engine>, stop: CancellationToken) {
    let mut redrives = Redrives::default();
    let mut reporter = engine.store.outage().reporter();
    let look_every = failpoint::limit("redrive-look", LOOK_EVERY);
    let mut pause = look_every;
    loop {
        let rest = async {
            sleep_about(look_every).await;
            let _ = tokio::time::timeout(pause.saturating_sub(look_every), engine.redrive_now.notified()).await;
        };
        if stop.run_until_cancelled(rest).await.is_none() {
            return;
        }
        let began = Instant::now();
        let done = redrives.run_once(&engine, began, &stop).await;
        reporter.ended("send dead letters again", began, &done);
        pause = match done {
            Ok(()) => next_look(look_every, redrives.looked, redrives.outcome),
            // Until it succeeds an outage is not over.
            Err(_) => look_every,
        };
    }
}

impl Redrives {
    async fn run_once(&mut self, engine: &Engine, began: Instant, stop: &CancellationToken) -> Result<()> {
        let now = engine.clock.now();
        // Read before the endpoints: a delivery that dies in between is found by the second query.
        let ids: Vec<_> = self.last.values().filter_map(|last| last.id.as_deref()).collect();
        let states = engine.outbox.states_of(&ids).await?;
        self.outcome = Outcome::NoneServed;
        let mut endpoints = engine.outbox.with_dead_letters().await?;
        self.looked = endpoints.len();
        // Those that died at that instant or before don't go out by themselves any more.
        endpoints.retain(|endpoint, last| {
            let since = young_since(engine, endpoint, now);
            std::mem::replace(last, since) > since
        });
        self.forget_settled(&endpoints, &states);
        let may_be_sent = |(endpoint, _): &(&EndpointKey, &DateTime)| {
            let state = engine.endpoint_state(endpoint);
            // A suspended endpoint for which nothing else waits is probed with one of its dead letters.
            matches!(
                state,
                EndpointState::Served | EndpointState::Suspended { is_probe_due: true }
            )
        };
        for (endpoint, since) in endpoints.iter().filter(may_be_sent) {
            if stop.is_cancelled() {
                break;
            }
            self.outcome = self.outcome.max(Outcome::NoneDue);
            if self.refused.has(endpoint, began) {
                continue;
            }
            let last = self.last.get(endpoint);
            let state = last.and_then(|last| states.get(last.id.as_deref()?));
            let Some(limit) = allowed(last, state, now) else {
                continue;
            };
            match redrive_some(engine, endpoint, *since, limit).await {
                Ok(heads) => self.redriven(engine, endpoint, heads),
                Err(error) => self.failed(endpoint, error, began)?,
            }
        }
        Ok(())
    }

    /// Keeps the endpoints that have dead letters, or whose only one is on its way.
    fn forget_settled(&mut self, endpoints: &HashMap<EndpointKey, DateTime>, states: &States) {
        let is_pending = |last: &LastRedrive| {
            let state = last.id.as_ref().and_then(|id| states.get(id));
            state.is_some_and(|document| document.state == "pending")
        };
        self.last
            .retain(|endpoint, last| endpoints.contains_key(endpoint) || is_pending(last));
    }

    fn redriven(&mut self, engine: &Engine, endpoint: &EndpointKey, heads: Vec<Head>) {
        self.refused.accepted(endpoint);
        let last = LastRedrive {
            at: tokio::time::Instant::now(),
            id: heads.last().map(|head| head.id.to_string()),
        };
        self.last.insert(endpoint.clone(), last);
        if heads.is_empty() {
            return;
        }
        self.outcome = Outcome::Sent;
        info!(
            organization = endpoint.organization(),
            endpoint = endpoint.endpoint(),
            count = heads.len(),
            "dead letters go out again"
        );
        engine.waiting.add(heads);
    }

    /// # Errors
    /// The error itself where it is not the endpoint's own.
    fn failed(&mut self, endpoint: &EndpointKey, error: Error, began: Instant) -> Result<()> {
        match error.kind() {
            kind if kind.is_general() => return Err(error),
            Kind::Conflict => {
                debug!(%endpoint, %error, "dead letters of this endpoint can't go out again now; those of the others do");
            }
            _ => {
                let pause = self.refused.refused(endpoint.clone(), began).as_secs();
                error!(%endpoint, %error, "MongoDB refuses to send dead letters of this endpoint again: repeated in {pause} s, those of the others go out");
            }
        }
        Ok(())
    }
}

/// Dead letters of that endpoint are younger than `delivery.redrive_for` if they died after this: while it was held or suspended they grew
/// no older.
fn young_since(engine: &Engine, endpoint: &EndpointKey, now: DateTime) -> DateTime {
    let mut waited = engine.holds.periods(endpoint, now);
    waited.extend(engine.episodes.suspensions(endpoint, now));
    counted_back(now, engine.settings.config.get().delivery.redrive_for, &waited)
}

/// Sends the oldest again, but for documents that MongoDB refuses to change, unless these are many.
async fn redrive_some(engine: &Engine, endpoint: &EndpointKey, since: DateTime, limit: i64) -> Result<Vec<Head>> {
    let mut refusals = 0;
    loop {
        match engine
            .outbox
            .redrive(endpoint, since, limit, engine.clock.now())
            .await?
        {
            Redriven::Again(heads) => return Ok(heads),
            Redriven::Refused(_) if refusals < MOST_REFUSED => refusals += 1,
            Redriven::Refused(error) => return Err(error),
        }
    }
}

/// How long after a look at that many endpoints the next one follows: its cost grows with them.
fn next_look(look_every: Duration, endpoints: usize, outcome: Outcome) -> Duration {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
    let rest = failpoint::limit("redrive-rest", REST);
    let rest = rest.saturating_mul(endpoints).min(LONGEST_REST);
    match outcome {
        Outcome::Sent => look_every,
        Outcome::NoneDue => rest.max(look_every),
        Outcome::NoneServed => (rest * REST_UNSERVED).max(look_every),
    }
}

/// How many may go out now: many where the last one was delivered, none while it is on its way, and one where it failed,
/// [`ONE_EVERY`] after it did.
fn allowed(last: Option<&LastRedrive>, document: Option<&DocumentState>, now: DateTime) -> Option<i64> {
    let Some(last) = last else { return Some(1) };
    match document {
        Some(document) if document.state == "delivered" => Some(PER_LOOK),
        Some(document) if document.state == "pending" => None,
        Some(DocumentState { ended: Some(ended), .. }) => (later(*ended, ONE_EVERY) <= now).then_some(1),
        _ => (last.at.elapsed() >= ONE_EVERY).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_that_failed_is_followed_a_minute_after_its_end() {
        let last = LastRedrive {
            at: tokio::time::Instant::now(),
            id: Some("a".into()),
        };
        let seconds = |seconds: i64| DateTime::from_millis(seconds * 1000);
        let table = [
            ("on its way", "pending", None, None),
            ("delivered", "delivered", Some(0), Some(PER_LOOK)),
            ("just failed", "dead", Some(995), None),
            ("failed a minute ago", "dead", Some(940), Some(1)),
            ("cancelled a while ago", "cancelled", Some(100), Some(1)),
            ("fails at a later time than now", "dead", Some(1_010), None),
        ];
        for (what, state, ended, expected) in table {
            let document = DocumentState {
                state: state.to_owned(),
                ended: ended.map(seconds),
            };
            assert_eq!(
                allowed(Some(&last), Some(&document), seconds(1_000)),
                expected,
                "{what}"
            );
        }
        assert_eq!(
            allowed(Some(&last), None, seconds(1_000)),
            None,
            "nothing is known of it"
        );
        assert_eq!(allowed(None, None, seconds(1_000)), Some(1), "the first");
    }

    #[test]
    fn a_look_that_costs_much_and_finds_nothing_is_rare() {
        let seconds = Duration::from_secs;
        for (endpoints, found, expected) in [
            (0, Outcome::NoneServed, seconds(5)),
            (800, Outcome::NoneDue, seconds(5)),
            (5_000, Outcome::NoneDue, seconds(30)),
            (5_000, Outcome::NoneServed, seconds(120)),
            (5_000, Outcome::Sent, seconds(5)),
            (1_000_000, Outcome::NoneDue, seconds(60)),
            (1_000_000, Outcome::NoneServed, seconds(240)),
        ] {
            assert_eq!(next_look(LOOK_EVERY, endpoints, found), expected, "{endpoints}");
        }
    }
}
