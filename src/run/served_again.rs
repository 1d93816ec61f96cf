//! Endpoints that are served again: what has waited for them is moved to the class `background`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Engine;
use crate::model::EndpointKey;

/// How long after a conflict, or while MongoDB is unavailable, the same documents are moved again; after each further one, twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The next step of an endpoint, and how long it pauses if that fails.
type Step = Reverse<(Instant, Duration, EndpointKey)>;

/// Moves what has waited for endpoints that are served again to the class `background`, after what happens now, until `stop`. They take
/// turns, step by step: one whose documents somebody keeps locked, or for which very many wait, stops no other.
pub(super) async fn move_to_background(engine: Arc<Engine>, stop: CancellationToken) {
    let mut steps = BinaryHeap::<Step>::new();
    loop {
        let due = steps.peek().map(|Reverse((due, ..))| *due);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            endpoint = engine.served_again.next() => {
                info!(
                    organization = endpoint.organization(),
                    endpoint = endpoint.endpoint(),
                    "an endpoint is served again: what has waited goes out after what happens now, one request at first"
                );
                steps.push(Reverse((Instant::now(), FIRST_PAUSE, endpoint)));
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(Reverse((_, pause, endpoint))) = steps.pop() {
                    steps.extend(step(&engine, pause, endpoint).await);
                }
            }
        }
    }
}

/// Moves some of what has waited for that endpoint. Returns the step that follows, if one does.
async fn step(engine: &Engine, pause: Duration, endpoint: EndpointKey) -> Option<Step> {
    let since = engine.endpoint_states.own_served_since(&endpoint)?;
    match engine.outbox.move_to_background(&endpoint, since).await {
        Ok(true) => Some(Reverse((Instant::now(), FIRST_PAUSE, endpoint))),
        Ok(false) => None,
        Err(error) if !error.kind().is_refusal() => {
            let next = (pause * 2).min(LONGEST_PAUSE);
            Some(Reverse((Instant::now() + pause, next, endpoint)))
        }
        Err(error) => {
            debug!(%endpoint, %error, "what has waited for this endpoint goes out before what happens now");
            None
        }
    }
}
