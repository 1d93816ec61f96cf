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
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
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
    let endpoints = engine.outbox.with_dead_letters(since).await?;
    trials.last.retain(|endpoint, _| endpoints.contains(endpoint));
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
        let Some(limit) = allowed(engine, trials.last.get(endpoint)).await? else {
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

/// How many may go out now: many where the last trial arrived, none while it is on its way, one now and then where it failed.
async fn allowed(engine: &Engine, last: Option<&Trial>) -> Result<Option<i64>> {
    let Some(last) = last else { return Ok(Some(1)) };
    let state = match &last.id {
        Some(id) => engine.outbox.state_of(id).await?,
        None => None,
    };
    Ok(match state.as_deref() {
        Some("delivered") => Some(GENTLE),
        Some("pending") => None,
        _ => (last.at.elapsed() >= TRY_EVERY).then_some(1),
    })
}
