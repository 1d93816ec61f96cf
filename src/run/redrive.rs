//! Dead letters that go out again by themselves: an ordinary outage of a receiver needs no operator.
//!
//! While an endpoint fails, its oldest dead letter is tried now and then; once the endpoint answers, the others follow, the
//! oldest first, at a gentle rate.

use std::collections::HashMap;
use std::time::Duration;

use bson::DateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::Engine;
use super::upkeep::MOST_REFUSED;
use crate::failpoint;
use crate::model::EndpointKey;
use crate::outbox::{Head, Redriven};
use crate::platform::Found;
use crate::store::{Kind, Pauses, Result};

/// How often is looked for dead letters that may go out again.
const LOOK: Duration = Duration::from_secs(5);

/// How often an endpoint that has not answered since is tried with one dead letter.
const TRY_EVERY: Duration = Duration::from_secs(60);

/// This many go to an endpoint that answers, at each look: ten a second.
const GENTLE: i64 = 50;

/// What was last tried of an endpoint's dead letters. `None`: none of them may go out again, and all had to be read to know it.
struct Trial {
    at: Instant,
    id: Option<String>,
}

/// What was tried.
#[derive(Default)]
struct Trials {
    last: HashMap<EndpointKey, Trial>,
    /// Endpoints whose dead letters MongoDB refuses to change.
    refused: Pauses<EndpointKey>,
}

/// Sends dead letters again until `stop`.
pub(super) async fn redrive(engine: std::sync::Arc<Engine>, stop: CancellationToken) {
    let (mut trials, mut tries) = (Trials::default(), engine.store.outage().tries());
    let look_every = failpoint::limit("redrive-look", LOOK);
    while stop.run_until_cancelled(tokio::time::sleep(look_every)).await.is_some() {
        let began = std::time::Instant::now();
        match look(&engine, &mut trials).await {
            Ok(()) => tries.succeeded(),
            Err(error) => tries.failed("send dead letters again", &error, began),
        }
    }
}

async fn look(engine: &Engine, trials: &mut Trials) -> Result<()> {
    let began = std::time::Instant::now();
    let age = i64::try_from(engine.settings.redrive_for.get().as_millis()).unwrap_or(i64::MAX);
    let now = engine.clock.now();
    let since = DateTime::from_millis(now.timestamp_millis().saturating_sub(age));
    // Before the endpoints: what dies in between is found among these.
    let tried: Vec<_> = trials.last.values().filter_map(|trial| trial.id.as_deref()).collect();
    let states = engine.outbox.states_of(&tried).await?;
    let state_of = |trial: &Trial| states.get(trial.id.as_deref()?);
    let endpoints = engine.outbox.with_dead_letters(since).await?;
    // An endpoint whose only dead letter is on its way has none now.
    trials.last.retain(|endpoint, trial| {
        endpoints.contains(endpoint) || state_of(trial).is_some_and(|(state, _)| state == "pending")
    });
    let ours = |endpoint: &&EndpointKey| {
        let enabled = match engine.directory.find(endpoint) {
            Found::Served(_) => true,
            Found::Email { enabled } => enabled,
            Found::Off { .. } | Found::OutOfService { .. } => false,
        };
        enabled && engine.cluster.is_assigned(endpoint)
    };
    for endpoint in endpoints.iter().filter(ours) {
        if trials.refused.has(endpoint, began) {
            continue;
        }
        let last = trials.last.get(endpoint);
        let Some(limit) = allowed(last, last.and_then(state_of), now) else {
            continue;
        };
        let redriven = match redrive_some(engine, endpoint, since, limit).await {
            Ok(redriven) => redriven,
            Err(error) if error.kind() == Kind::Unavailable => return Err(error),
            Err(error) if error.kind() == Kind::Conflict => {
                debug!(%endpoint, %error, "dead letters of this endpoint can't go out again now; those of the others do");
                continue;
            }
            Err(error) => {
                let pause = trials.refused.refused(endpoint.clone(), began).as_secs();
                error!(%endpoint, %error, "MongoDB refuses to send dead letters of this endpoint again: tried again in {pause} s, those of the others go out");
                continue;
            }
        };
        let (count, id) = (redriven.len(), redriven.last().map(|head| head.id.to_string()));
        trials.refused.accepted(endpoint);
        trials.last.insert(endpoint.clone(), Trial { at: Instant::now(), id });
        if count == 0 {
            continue;
        }
        engine.waiting.add(redriven);
        info!(
            organization = endpoint.organization(),
            endpoint = endpoint.endpoint(),
            count,
            "dead letters go out again"
        );
    }
    Ok(())
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

/// How many may go out now: many where the last trial arrived, none while it is on its way, one at a time where it failed,
/// [`TRY_EVERY`] after it did.
fn allowed(last: Option<&Trial>, state: Option<&(String, Option<DateTime>)>, now: DateTime) -> Option<i64> {
    let Some(last) = last else { return Some(1) };
    match state {
        Some((state, _)) if state == "delivered" => Some(GENTLE),
        Some((state, _)) if state == "pending" => None,
        Some((_, Some(ended))) => is_past(*ended, TRY_EVERY, now).then_some(1),
        _ => (last.at.elapsed() >= TRY_EVERY).then_some(1),
    }
}

fn is_past(instant: DateTime, by: Duration, now: DateTime) -> bool {
    let elapsed = now.timestamp_millis().saturating_sub(instant.timestamp_millis());
    u128::try_from(elapsed).is_ok_and(|elapsed| elapsed >= by.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_that_failed_is_followed_a_minute_after_its_end() {
        let trial = Trial {
            at: Instant::now(),
            id: Some("a".into()),
        };
        let seconds = |seconds: i64| DateTime::from_millis(seconds * 1000);
        let table = [
            ("on its way", "pending", None, None),
            ("arrived", "delivered", Some(0), Some(GENTLE)),
            ("just failed", "dead", Some(995), None),
            ("failed a minute ago", "dead", Some(940), Some(1)),
            ("cancelled a while ago", "cancelled", Some(100), Some(1)),
            ("fails at a later time than now", "dead", Some(1_010), None),
        ];
        for (what, state, ended, expected) in table {
            let state = (state.to_owned(), ended.map(seconds));
            assert_eq!(allowed(Some(&trial), Some(&state), seconds(1_000)), expected, "{what}");
        }
        assert_eq!(
            allowed(Some(&trial), None, seconds(1_000)),
            None,
            "nothing is known of it"
        );
        assert_eq!(allowed(None, None, seconds(1_000)), Some(1), "the first");
    }
}
