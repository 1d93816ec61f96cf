//! A daemon's state at one moment, in Prometheus' words.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;

use super::counts::{Counts, Kind};
use super::sheet::Sheet;
use crate::cluster::Duties;
use crate::dispatch::Fill;
use crate::model::EventType;
use crate::source::Rejections;
use crate::status::Backlog;

/// A daemon's state. What is not known is left out.
#[derive(Debug)]
pub struct Reading {
    /// Whether it does its work: as `/readyz` says.
    pub ready: bool,
    /// What is known once it has found its database.
    pub working: Option<Working>,
}

/// The state of a daemon that works.
#[derive(Debug)]
pub struct Working {
    /// What became of attempts.
    pub counts: Arc<Counts>,
    /// Documents that can't be events.
    pub rejections: Rejections,
    /// The queue.
    pub fill: Fill,
    /// Requests in flight.
    pub in_flight: usize,
    /// Endpoints that are known, and those out of service.
    pub endpoints: (usize, usize),
    /// The leases that it holds.
    pub leases: Duties,
    /// How long ago the change stream last said where it stands, where it is followed here.
    pub stream_age: Option<Duration>,
    /// When the last scan of this daemon ended.
    pub last_scan: Option<DateTime>,
    /// How long MongoDB has been away.
    pub outage: Option<Duration>,
    /// What waits in the outbox, as MongoDB last said.
    pub backlog: Option<Arc<Backlog>>,
}

impl Reading {
    /// The content type of [`Reading::text`].
    pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

    /// The text that Prometheus reads.
    pub fn text(self) -> String {
        let (mut registry, mut text) = (Registry::with_prefix("certhookd"), String::new());
        registry.register_collector(Box::new(self));
        // Writing to a string does not fail.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        let version = [(env!("CARGO_PKG_VERSION"), 1)];
        sheet.gauges("build_info", "The version that runs", "version", version)?;
        sheet.gauge(
            "ready",
            "1 while the daemon does its work, as /readyz says",
            Some(i64::from(self.ready)),
        )?;
        let Some(working) = &self.working else { return Ok(()) };
        working.deliveries(&mut sheet)?;
        working.outbox(&mut sheet)?;
        working.queue(&mut sheet)?;
        working.sources(&mut sheet)
    }
}

impl Working {
    fn deliveries(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let kinds = self.counts.kinds();
        let labels = |kind: &Kind| [("channel", kind.channel), ("event", kind.event.as_str())];
        let attempts = kinds.iter().flat_map(|kind| {
            let [channel, event] = labels(kind);
            let outcomes = [
                ("delivered", &kind.delivered),
                ("failed", &kind.failed),
                ("gone", &kind.gone),
                ("refused", &kind.refused),
            ];
            outcomes.map(|(outcome, count)| ([channel, event, ("outcome", outcome)], count))
        });
        sheet.counters("attempts", "Attempts by what came of them", attempts)?;
        let dead = kinds.iter().map(|kind| (labels(kind), &kind.dead));
        sheet.counters("dead_letters", "Deliveries that became dead letters", dead)?;
        let cancelled = kinds.iter().map(|kind| (labels(kind), &kind.cancelled));
        sheet.counters(
            "cancelled",
            "Deliveries whose endpoint was deleted or disabled",
            cancelled,
        )?;
        let attempt = kinds.iter().map(|kind| (labels(kind), &kind.attempt));
        sheet.histograms(
            "delivery_duration_seconds",
            "From the start of an attempt that succeeded to the end of its answer",
            attempt,
        )?;
        let end_to_end = kinds.iter().map(|kind| (labels(kind), &kind.end_to_end));
        sheet.histograms(
            "end_to_end_seconds",
            "From the certificate's expires or creationDate to the answer that accepted it",
            end_to_end,
        )
    }

    fn outbox(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Some(backlog) = &self.backlog else { return Ok(()) };
        let rows = [
            ("pending", backlog.pending),
            ("claimed", backlog.claimed),
            ("dead", backlog.dead),
            ("ended", backlog.ended),
        ];
        sheet.gauges(
            "outbox_rows",
            "Deliveries in MongoDB by state, of all daemons; ended: delivered, cancelled or rejected, and kept",
            "state",
            rows,
        )?;
        let oldest = backlog.oldest.map_or(0.0, |age| age.as_secs_f64());
        sheet.gauge(
            "oldest_pending_seconds",
            "How long a delivery that is due has been waiting in the outbox, of all daemons",
            Some(oldest),
        )
    }

    fn queue(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Fill {
            held,
            queued,
            probed,
            capacity,
        } = self.fill;
        sheet.gauge("queue_held", "Places of the queue that are taken", Some(held))?;
        sheet.gauge(
            "queue_waiting",
            "Of these, deliveries that wait for a worker",
            Some(queued),
        )?;
        sheet.gauge("queue_capacity", "Places of the queue in all", Some(capacity))?;
        sheet.gauge("in_flight", "Requests in flight", Some(self.in_flight))?;
        sheet.gauge("breakers_open", "Endpoints that fail and are only probed", Some(probed))?;
        let (served, refused) = self.endpoints;
        let endpoints = [("served", served), ("out_of_service", refused)];
        sheet.gauges("endpoints", "Endpoints that are configured", "state", endpoints)
    }

    fn sources(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let held = |lease: Option<i64>| i64::from(lease.is_some());
        let leases = [("scan", held(self.leases.scan)), ("watch", held(self.leases.watch))];
        sheet.gauges(
            "lease_held",
            "1 where this daemon is the one that scans or watches",
            "lease",
            leases,
        )?;
        sheet.gauge(
            "stream_token_age_seconds",
            "How long ago the change stream last said where it stands; only where it is followed",
            self.stream_age.map(|age| age.as_secs_f64()),
        )?;
        sheet.gauge(
            "last_scan_timestamp_seconds",
            "When the last scan of this daemon ended",
            self.last_scan.map(seconds),
        )?;
        let rejected = EventType::ALL.map(|event| ([("event", event.as_str())], self.rejections.count(event)));
        sheet.counters("rejected", "Documents that can't be events", rejected)?;
        sheet.gauge(
            "mongodb_outage_seconds",
            "How long MongoDB has been away; 0 while it answers",
            Some(self.outage.unwrap_or_default().as_secs_f64()),
        )
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of this age fit")]
fn seconds(at: DateTime) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}
