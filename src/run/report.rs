//! The state of everything in one line: for SIGUSR2, and a short form for `systemctl status`.

use bson::DateTime;

use super::Engine;
use crate::model::count;
use crate::status;

/// The line that `systemctl status` shows: only what changes when something happens.
pub(super) fn status(engine: &Engine) -> String {
    let (fill, endpoints) = (engine.queue.fill(), engine.directory.count());
    let outage = engine.store.outage();
    let mut line = match outage.lasts().or_else(|| outage.login_refused()) {
        Some(_) => "waiting for MongoDB".to_owned(),
        None if engine.settings.proxy.outage().is_some() => "waiting for the proxy".to_owned(),
        None => count(endpoints.served as u64, "endpoint"),
    };
    let mut add = |text: String| line = format!("{line}, {text}");
    if endpoints.out_of_service > 0 {
        add(format!("{} out of service", endpoints.out_of_service));
    }
    if fill.probed > 0 {
        add(format!("{} failing", fill.probed));
    }
    if fill.taken > 0 {
        add(format!("{} in the queue, {} in flight", fill.taken, fill.in_flight));
    }
    let counts = &engine.tally.counts;
    add(format!("{} delivered, {} dead", counts.delivered(), counts.dead()));
    if let Some((at, report)) = *engine.last_scan.get() {
        add(format!("last scan {} found {}", text(at), report.found));
    }
    line
}

/// Logs all of it in one line, with what only MongoDB knows.
pub(super) async fn log(engine: &Engine) {
    // During an outage these are unknown, and the line says what is known.
    let pending = status::pending(&engine.store).await.ok();
    let dead_letters = status::dead_letters(&engine.store).await.ok();
    let (fill, endpoints) = (engine.queue.fill(), engine.directory.count());
    let (scan, moved) = (*engine.last_scan.get(), *engine.stream_moved_at.get());
    let stream_lag_ms = moved.map(|at| engine.clock.now().timestamp_millis() - at.timestamp_millis());
    tracing::info!(
        queued = fill.queued,
        slots_taken = fill.taken,
        capacity = fill.capacity,
        in_flight = fill.in_flight,
        endpoints_probed = fill.probed,
        pending,
        dead_letters,
        delivered = engine.tally.counts.delivered(),
        failed_attempts = engine.tally.counts.failed(),
        endpoints = endpoints.served,
        endpoints_out_of_service = endpoints.out_of_service,
        last_scan = scan.map(|(at, _)| text(at)),
        last_scan_found = scan.map(|(_, report)| report.found),
        stream_lag_ms,
        outage_s = engine.store.outage().lasts().map(|lasts| lasts.as_secs()),
        proxy_outage_s = engine.settings.proxy.outage().map(|outage| outage.lasts().as_secs()),
        "state"
    );
}

fn text(at: DateTime) -> String {
    at.try_to_rfc3339_string().unwrap_or_else(|_| at.to_string())
}
