//! Ending what waits for endpoints that are switched off or deleted, in bulk; and keeping the indexes of the outbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::Engine;
use crate::dispatch::{EndpointSet, EndpointState};
use crate::failpoint;
use crate::model::EndpointKey;
use crate::outbox::Cancelled;
use crate::store::{Error, Pauses, Stopped, ensure_outbox, missing_in_outbox};

/// Documents of an endpoint that MongoDB may refuse to change before all of them are left alone.
pub(super) const MOST_REFUSED: usize = 100;

/// How often the indexes of the outbox are listed, and how often at most where operations fail for want of one.
const LOOK: Duration = Duration::from_secs(30);
const SHORTEST_LOOK: Duration = Duration::from_secs(1);

/// Creates the indexes of the outbox again that somebody drops, alone or with the collection. What needs one waits: the queries
/// name it, so that none of them walks through the collection meanwhile.
///
/// # Errors
/// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable.
pub(super) async fn keep_indexes(engine: Arc<Engine>, stop: CancellationToken) -> Result<(), Stopped> {
    let store = &engine.store;
    let look_every = failpoint::limit("index-look", LOOK);
    let wait = || async {
        tokio::time::sleep(SHORTEST_LOOK).await;
        let rest = look_every.saturating_sub(SHORTEST_LOOK);
        let _ = tokio::time::timeout(rest, store.outage().lost_index()).await;
    };
    while stop.run_until_cancelled(wait()).await.is_some() {
        let look = || missing_in_outbox(store);
        let missing = store.persist("look for the outbox's indexes", look).await?;
        if missing.is_empty() {
            continue;
        }
        warn!(?missing, "the outbox has lost indexes: they are created again");
        let create = || ensure_outbox(store, engine.retention);
        store.persist("create the outbox's indexes again", create).await?;
        info!("the outbox has all its indexes again");
    }
    Ok(())
}

/// Cancels what waits for the endpoints that come out of `off`, until `stop`.
///
/// # Errors
/// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable.
pub(super) async fn cancel(engine: Arc<Engine>, off: EndpointSet, stop: CancellationToken) -> Result<(), Stopped> {
    let mut refused = Pauses::default();
    while let Some(endpoint) = stop.run_until_cancelled(off.next()).await {
        let began = Instant::now();
        if refused.has(&endpoint, began) {
            continue;
        }
        match cancel_all(&engine, &endpoint, &stop).await? {
            None => refused.accepted(&endpoint),
            Some(error) => {
                let pause = refused.refused(endpoint.clone(), began).as_secs();
                error!(%endpoint, %error, "deliveries of an endpoint that is off can't be cancelled: they wait, tried again in {pause} s, the other endpoints go on");
            }
        }
    }
    Ok(())
}

async fn reread_organization(engine: &Engine, endpoint: &EndpointKey) -> Result<(), Stopped> {
    if endpoint.is_own() {
        return Ok(());
    }
    let refresh = engine.refresh();
    let reread = || refresh.reread_organization(endpoint.organization());
    engine.store.persist("read an organization again", reread).await
}

/// Cancels what waits for an endpoint, if it is off. Returns what MongoDB refuses, if it does.
async fn cancel_all(
    engine: &Engine,
    endpoint: &EndpointKey,
    stop: &CancellationToken,
) -> Result<Option<Error>, Stopped> {
    // A cancellation can't be taken back by a later look: what is in memory may be old.
    reread_organization(engine, endpoint).await?;
    let (mut cancelled, mut uncounted, mut refusals) = (0, None, 0);
    let failed = loop {
        let EndpointState::Off(reason) = engine.endpoint_state(endpoint) else {
            break None;
        };
        if stop.is_cancelled() {
            break None;
        }
        let now = engine.clock.now();
        match engine.outbox.cancel(endpoint, reason, now, uncounted.is_none()).await {
            Ok(Cancelled::All) => {
                engine.endpoint_states.note_off(endpoint);
                break None;
            }
            Ok(Cancelled::Deliveries(deliveries)) => {
                cancelled += deliveries;
                engine.tally.counts.add_cancelled(endpoint, deliveries);
            }
            Ok(Cancelled::Refused(_)) if refusals < MOST_REFUSED => refusals += 1,
            Err(error) if !error.kind().is_refusal() => {
                // The next look finds it again.
                debug!(%endpoint, %error, "deliveries can't be cancelled now");
                break None;
            }
            Err(error) if uncounted.is_none() => uncounted = Some(error),
            Ok(Cancelled::Refused(error)) | Err(error) => break Some(error),
        }
    };
    if cancelled > 0 {
        log_cancelled(endpoint, cancelled, uncounted);
    }
    Ok(failed)
}

fn log_cancelled(endpoint: &EndpointKey, cancelled: u64, uncounted: Option<Error>) {
    if let Some(error) = uncounted {
        error!(%endpoint, deliveries = cancelled, %error, "MongoDB refuses the statistics: these deliveries are cancelled, but not counted in webhook_stats");
    }
    info!(
        organization = endpoint.organization(),
        endpoint = endpoint.endpoint(),
        deliveries = cancelled,
        "deliveries cancelled: the endpoint is switched off or deleted; kept, `certhookd replay` sends them"
    );
}
