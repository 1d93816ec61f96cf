//! Ending what waits for endpoints that are switched off or deleted, in bulk.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::Engine;
use crate::dispatch::{OffEndpoints, Standing};
use crate::model::EndpointKey;
use crate::store::{Kind, Stopped};

/// Cancels what waits for the endpoints that come out of `off`, until `stop`.
///
/// # Errors
/// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable.
pub(super) async fn cancel(engine: Arc<Engine>, off: OffEndpoints, stop: CancellationToken) -> Result<(), Stopped> {
    while let Some(endpoint) = stop.run_until_cancelled(off.next()).await {
        cancel_all(&engine, &endpoint, &stop).await?;
    }
    Ok(())
}

async fn cancel_all(engine: &Engine, endpoint: &EndpointKey, stop: &CancellationToken) -> Result<(), Stopped> {
    if !endpoint.is_email() {
        // A cancellation can't be taken back by a later look: what is in memory may be old.
        let refresh = engine.refresh();
        let reread = || refresh.reread_organization(endpoint.organization());
        engine.store.persist("read an organization again", reread).await?;
    }
    let mut cancelled = 0;
    let mut counted = true;
    while let Standing::Off(reason) = engine.standing(endpoint)
        && !stop.is_cancelled()
    {
        let now = engine.clock.now();
        match engine.outbox.cancel(endpoint, reason, now, counted).await {
            Ok(0) => break,
            Ok(deliveries) => {
                cancelled += deliveries;
                engine.tally.counts.note_cancelled(endpoint, deliveries);
            }
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Conflict) => {
                // The next look finds it again.
                debug!(%endpoint, %error, "deliveries can't be cancelled now");
                break;
            }
            Err(error) if counted => {
                error!(%endpoint, %error, "deliveries can't be cancelled with their count in webhook_stats: cancelled without it");
                counted = false;
            }
            Err(error) => {
                error!(%endpoint, %error, "deliveries of an endpoint that is off can't be cancelled: they wait, the other endpoints go on");
                break;
            }
        }
    }
    if cancelled > 0 {
        info!(
            organization = endpoint.organization(),
            endpoint = endpoint.endpoint(),
            deliveries = cancelled,
            "deliveries cancelled: the endpoint is switched off or deleted; kept, `certhookd replay` sends them"
        );
    }
    Ok(())
}
