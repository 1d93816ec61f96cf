//! Acting on what an operation has changed for all instances: the control number of `webhook_state`. The instance that raises it
//! waits until every living instance has stated in its heartbeat that it has acted on it.

use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Engine;
use crate::model::time_until;
use crate::store::Stopped;

/// Follows the control number, and the ends of holds that end by themselves, until `stop`.
///
/// # Errors
/// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable.
pub(super) async fn follow(engine: Arc<Engine>, stop: CancellationToken) -> Result<(), Stopped> {
    let mut wanted = engine.control.subscribe();
    // What was read before this subscribed.
    wanted.mark_changed();
    loop {
        let now = engine.clock.now();
        let end = engine.holds.next_end(now);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(end, now) => {
                engine.look_again();
                continue;
            }
        }
        wanted.borrow_and_update();
        let load = || engine.holds.load(&engine.store);
        let number = engine.store.persist("read what is held", load).await?;
        let load = || engine.load_endpoint_states(false);
        engine.store.persist("read which endpoints are suspended", load).await?;
        // What is in memory may be held, cancelled or erased by now: it is read again. The documents come first, so that a read that
        // begins in between takes none of them.
        engine.waiting.forget_documents();
        engine.queue.drop_all_unsent();
        engine.look_again();
        engine.cluster.acknowledge(number);
        let holds = engine.holds.lasting(engine.clock.now()).len();
        debug!(number, holds, "acted on what operations have changed");
    }
}

/// At most a day: clocks are corrected meanwhile.
async fn sleep_until(end: Option<DateTime>, now: DateTime) {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    let Some(end) = end else {
        return std::future::pending().await;
    };
    tokio::time::sleep(time_until(end, now).min(LONGEST)).await;
}
