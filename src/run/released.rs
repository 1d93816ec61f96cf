//! Endpoints that are served again: what has waited for them is moved to the class `background`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Engine;
use crate::store::Kind;

/// How long after a conflict the same documents are moved again.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);

/// Moves what has waited for endpoints that are served again to the class `background`, after what happens now, until `stop`.
pub(super) async fn move_to_background(engine: Arc<Engine>, stop: CancellationToken) {
    while let Some(endpoint) = stop.run_until_cancelled(engine.released.next()).await {
        info!(
            organization = endpoint.organization(),
            endpoint = endpoint.endpoint(),
            "an endpoint is served again: what has waited goes out after what happens now, one request at first"
        );
        while let Some(since) = engine
            .endpoint_states
            .own_served_since(&endpoint)
            .filter(|_| !stop.is_cancelled())
        {
            match engine.outbox.move_to_background(&endpoint, since).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == Kind::Conflict => {
                    stop.run_until_cancelled(tokio::time::sleep(AFTER_CONFLICT)).await;
                }
                Err(error) => {
                    debug!(%endpoint, %error, "what has waited for this endpoint goes out before what happens now");
                    break;
                }
            }
        }
    }
}
