//! The state of everything in one line: for SIGUSR2, and a short form for `systemctl status`.

use bson::DateTime;

use super::Engine;
use crate::model::count;
use crate::platform::EndpointCounts;
use crate::source::Report;
use crate::status;

/// The state of a running daemon.
#[derive(Clone, Debug)]
pub struct Snapshot {
    taken: usize,
    queued: usize,
    capacity: usize,
    in_flight: usize,
    probed: usize,
    delivered: u64,
    failed: u64,
    dead: u64,
    endpoints: EndpointCounts,
    outage_s: Option<u64>,
    proxy_outage_s: Option<u64>,
    last_scan: Option<(DateTime, Report)>,
    stream_lag_ms: Option<i64>,
}

impl Snapshot {
    /// Read from memory alone.
    pub fn of(engine: &Engine) -> Self {
        let fill = engine.queue.fill();
        let moved = *engine.stream_moved_at.get();
        Self {
            taken: fill.taken,
            queued: fill.queued,
            capacity: fill.capacity,
            probed: fill.probed,
            in_flight: fill.in_flight,
            delivered: engine.tally.counts.delivered(),
            failed: engine.tally.counts.failed(),
            dead: engine.tally.counts.dead(),
            endpoints: engine.directory.count(),
            outage_s: engine.store.outage().lasts().map(|lasts| lasts.as_secs()),
            proxy_outage_s: engine.settings.proxy.outage().map(|outage| outage.lasts().as_secs()),
            last_scan: *engine.last_scan.get(),
            stream_lag_ms: moved.map(|at| engine.clock.now().timestamp_millis() - at.timestamp_millis()),
        }
    }

    /// The line that `systemctl status` shows: only what changes when something happens.
    pub fn status(&self) -> String {
        let mut line = match self.outage_s {
            Some(_) => "waiting for MongoDB".to_owned(),
            None if self.proxy_outage_s.is_some() => "waiting for the proxy".to_owned(),
            None => count(self.endpoints.served as u64, "endpoint"),
        };
        let mut add = |text: String| line = format!("{line}, {text}");
        if self.endpoints.out_of_service > 0 {
            add(format!("{} out of service", self.endpoints.out_of_service));
        }
        if self.probed > 0 {
            add(format!("{} failing", self.probed));
        }
        if self.taken > 0 {
            add(format!("{} in the queue, {} in flight", self.taken, self.in_flight));
        }
        add(format!("{} delivered, {} dead", self.delivered, self.dead));
        if let Some((at, report)) = &self.last_scan {
            add(format!("last scan {} found {}", text(*at), report.found));
        }
        line
    }

    /// Logs all of it in one line, with what only MongoDB knows.
    pub async fn log(&self, engine: &Engine) {
        // During an outage these are unknown, and the line says what is known.
        let pending = status::pending(&engine.store).await.ok();
        let dead_letters = status::dead_letters(&engine.store).await.ok();
        let scan = self.last_scan.as_ref();
        tracing::info!(
            queued = self.queued,
            slots_taken = self.taken,
            capacity = self.capacity,
            in_flight = self.in_flight,
            endpoints_probed = self.probed,
            pending,
            dead_letters,
            delivered = self.delivered,
            failed_attempts = self.failed,
            endpoints = self.endpoints.served,
            endpoints_out_of_service = self.endpoints.out_of_service,
            last_scan = scan.map(|(at, _)| text(*at)),
            last_scan_found = scan.map(|(_, report)| report.found),
            stream_lag_ms = self.stream_lag_ms,
            outage_s = self.outage_s,
            proxy_outage_s = self.proxy_outage_s,
            "state"
        );
    }
}

fn text(at: DateTime) -> String {
    at.try_to_rfc3339_string().unwrap_or_else(|_| at.to_string())
}
