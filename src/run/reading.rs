//! Reads a running daemon for its metrics: from memory, but for what only MongoDB knows.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::metrics::Working;
use crate::service::Watchdog;
use crate::status::{Backlog, Cached, backlog};

/// How long a scrape waits for MongoDB. Prometheus gives up after 10 s.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is looked at.
pub(super) struct Watched {
    pub(super) engine: Arc<Engine>,
    pub(super) watchdog: Watchdog,
    backlog: Cached<Backlog>,
}

impl Watched {
    pub(super) fn new(engine: &Arc<Engine>, watchdog: &Watchdog) -> Self {
        let store = engine.store.clone();
        let ask = move || {
            let store = store.clone();
            Box::pin(async move { backlog(&store).await }) as _
        };
        Self {
            engine: Arc::clone(engine),
            watchdog: watchdog.clone(),
            backlog: Cached::new(ask),
        }
    }
}

/// The state as it is now.
pub(super) async fn read(watched: &Watched) -> Working {
    let engine = &watched.engine;
    let leases = *engine.cluster.duties().borrow();
    Working {
        counts: Arc::clone(&engine.tally.counts),
        rejections: engine.rejections.clone(),
        fill: engine.window.fill(),
        in_flight: engine.settings.permits.in_use(),
        endpoints: engine.directory.count(),
        leases,
        stream_age: leases.watch.and_then(|_| stream_age(engine)),
        last_scan: engine.last_scan.get().map(|(at, _)| at),
        outage: engine.store.outage().lasts(),
        backlog: watched.backlog.get(PATIENCE).await,
    }
}

fn stream_age(engine: &Engine) -> Option<Duration> {
    let moved = engine.watch_status.get().moved_at?;
    let millis = engine.clock.now().timestamp_millis() - moved.timestamp_millis();
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}
