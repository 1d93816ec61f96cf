//! Reads a running daemon for its metrics and its page: from memory, but for what only MongoDB knows.

use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;

use super::Engine;
use super::asking::Asking;
use crate::metrics::Working;
use crate::model::time_until;
use crate::page::Own;
use crate::service::Watchdog;
use crate::status::{Backlog, Cached, Status, backlog, gather};

/// How long a scrape or a reader waits for MongoDB. Prometheus gives up after 10 s.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_millis(500);

/// What metrics and page are read from.
pub(super) struct Watched {
    pub(super) engine: Arc<Engine>,
    pub(super) watchdog: Watchdog,
    pub(super) status: Cached<Status>,
    /// For pages of endpoints, and for the search.
    pub(super) endpoints: Asking,
    pub(super) searches: Asking,
    backlog: Cached<Backlog>,
    since: DateTime,
}

impl Watched {
    pub(super) fn new(engine: &Arc<Engine>, watchdog: &Watchdog) -> Self {
        let asked = Arc::clone(engine);
        let read_backlog = move || {
            let engine = Arc::clone(&asked);
            Box::pin(async move { backlog(&engine.store, &engine.directory).await }) as _
        };
        let asked = Arc::clone(engine);
        let read_status = move || {
            let engine = Arc::clone(&asked);
            Box::pin(async move {
                let redrive_for = engine.settings.config.get().delivery.redrive_for;
                gather(&engine.store, &engine.directory, redrive_for).await
            }) as _
        };
        Self {
            engine: Arc::clone(engine),
            watchdog: watchdog.clone(),
            status: Cached::new(read_status),
            endpoints: Asking::default(),
            searches: Asking::default(),
            backlog: Cached::new(read_backlog),
            since: engine.clock.now(),
        }
    }
}

/// The state as it is now.
pub(super) async fn read(watched: &Watched) -> Working {
    let engine = &watched.engine;
    let proxy = &engine.settings.proxy;
    let lease = *engine.cluster.lease().borrow();
    let outage = engine.store.outage();
    Working {
        counts: Arc::clone(&engine.tally.counts),
        rejections: engine.rejections.clone(),
        fill: engine.queue.fill(),
        endpoints: engine.directory.count(),
        suspended: engine.episodes.count_suspended(),
        holds: engine.holds.lasting(engine.clock.now()).len(),
        has_lease: lease.is_some(),
        stream_age: lease.and_then(|_| stream_age(engine)),
        scan_due: lease.and_then(|_| scan_due(watched)),
        last_scan: engine.last_scan.get().map(|(at, _)| at),
        outage: outage.lasts().or_else(|| outage.login_refused()),
        proxy_up: proxy.is_configured().then(|| !proxy.is_unavailable()),
        backlog: watched.backlog.get(REPLY_TIMEOUT).await,
    }
}

/// What the page shows of this instance.
pub(super) async fn own(watched: &Watched) -> Own {
    let engine = &watched.engine;
    Own {
        id: engine.cluster.instance_id().to_string(),
        now: engine.clock.now(),
        since: watched.since,
        working: read(watched).await,
        minutes: engine.history.minutes(),
    }
}

/// When the schedule has the next scan after the last one, or after the start where there was none.
fn scan_due(watched: &Watched) -> Option<DateTime> {
    let engine = &watched.engine;
    let last = engine.last_scan.get().map_or(watched.since, |(at, _)| at);
    engine.settings.schedule.get().next_after(last)
}

fn stream_age(engine: &Engine) -> Option<Duration> {
    let moved = (*engine.stream_moved_at.get())?;
    Some(time_until(engine.clock.now(), moved))
}
