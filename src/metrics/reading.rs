//! An instance's state at one moment, in Prometheus' words.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;

use super::counts::{Counts, Kind};
use super::encoder::Encoder;
use super::process::Process;
use crate::dispatch::Fill;
use crate::model::EventType;
use crate::platform::EndpointCounts;
use crate::source::Rejections;
use crate::status::Backlog;

/// An instance's state. What is not known is left out.
#[derive(Debug)]
pub struct Reading {
    /// Whether it does its work: as `/readyz` says.
    pub ready: bool,
    /// What is known once it has found its database.
    pub working: Option<Working>,
}

/// The state of an instance that works.
#[derive(Debug)]
pub struct Working {
    pub counts: Arc<Counts>,
    /// Documents that can't be events.
    pub rejections: Rejections,
    pub fill: Fill,
    pub endpoints: EndpointCounts,
    /// Endpoints of this instance that are suspended.
    pub suspended: usize,
    /// Holds that last: of everything, of organizations, of endpoints.
    pub holds: usize,
    /// Whether it holds the lease for finding events: it is the one that scans and watches.
    pub has_lease: bool,
    /// How long ago the change stream last moved, where it is followed here.
    pub stream_age: Option<Duration>,
    /// When the last scan of this instance ended.
    pub last_scan: Option<DateTime>,
    /// When the schedule has the next scan after that, where this instance scans.
    pub scan_due: Option<DateTime>,
    /// How long MongoDB has been unavailable.
    pub outage: Option<Duration>,
    /// Whether the proxy works, if one is configured.
    pub proxy_up: Option<bool>,
    /// What is pending and dead, as MongoDB last said.
    pub backlog: Option<Arc<Backlog>>,
}

impl Reading {
    /// The content type of [`Reading::text`].
    pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

    /// The text that Prometheus reads.
    pub fn text(self) -> String {
        let mut text = String::new();
        let (mut own, mut process) = (Registry::with_prefix("certhookd"), Registry::default());
        own.register_collector(Box::new(self));
        process.register_collector(Box::new(Process));
        for registry in [own, process] {
            // Writing to a string does not fail.
            let _ = prometheus_text::encode(&mut text, &registry);
        }
        text
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = Encoder(encoder);
        let version = [(env!("CARGO_PKG_VERSION"), 1)];
        encoder.gauges("build_info", "The version that runs", "version", version)?;
        encoder.gauge(
            "ready",
            "1 while the instance does its work, as /readyz says",
            Some(i64::from(self.ready)),
        )?;
        let Some(working) = &self.working else { return Ok(()) };
        working.deliveries(&mut encoder)?;
        working.outbox(&mut encoder)?;
        working.queue(&mut encoder)?;
        working.sources(&mut encoder)
    }
}

impl Working {
    fn deliveries(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let kinds = self.counts.kinds();
        let labels = |kind: &Kind| [("channel", kind.channel), ("event", kind.event)];
        let attempts = kinds.iter().flat_map(|kind| {
            let [channel, event] = labels(kind);
            let outcomes = [
                ("delivered", &kind.delivered),
                ("failed", &kind.failed),
                ("gone", &kind.gone),
                ("permanent", &kind.permanent),
            ];
            outcomes.map(|(outcome, count)| ([channel, event, ("outcome", outcome)], count))
        });
        encoder.counters("attempts", "Attempts by what came of them", attempts)?;
        let dead = kinds.iter().map(|kind| (labels(kind), &kind.dead));
        encoder.counters("dead_letters", "Deliveries that became dead letters", dead)?;
        let cancelled = kinds.iter().map(|kind| (labels(kind), &kind.cancelled));
        encoder.counters(
            "cancelled",
            "Deliveries whose endpoint was deleted or disabled",
            cancelled,
        )?;
        let attempt = kinds.iter().map(|kind| (labels(kind), &kind.attempt));
        encoder.histograms(
            "delivery_duration_seconds",
            "From the start of an attempt that succeeded to the end of its response",
            attempt,
        )?;
        let end_to_end = kinds.iter().map(|kind| (labels(kind), &kind.end_to_end));
        encoder.histograms(
            "end_to_end_seconds",
            "From the certificate's expires or creationDate to the response that accepted it, where that was within a day",
            end_to_end,
        )
    }

    fn outbox(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let Some(backlog) = &self.backlog else { return Ok(()) };
        let deliveries = [("pending", backlog.pending), ("dead", backlog.dead)];
        encoder.gauges(
            "outbox_deliveries",
            "Deliveries in the outbox by state, of all instances; dead: dead letters",
            "state",
            deliveries,
        )?;
        let oldest = backlog.oldest.map_or(0.0, |age| age.as_secs_f64());
        encoder.gauge(
            "oldest_pending_seconds",
            "How long a delivery that is due has been waiting for an endpoint that is served and neither held nor suspended, of all instances",
            Some(oldest),
        )
    }

    fn queue(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let Fill {
            taken,
            queued,
            probed,
            in_flight,
            capacity,
        } = self.fill;
        encoder.gauge("queue_used", "Slots of the delivery queue that are used", Some(taken))?;
        encoder.gauge("queue_waiting", "Deliveries in it that wait for a worker", Some(queued))?;
        encoder.gauge("queue_capacity", "Slots of the delivery queue in all", Some(capacity))?;
        encoder.gauge("in_flight", "Requests in flight", Some(in_flight))?;
        encoder.gauge(
            "breakers_open",
            "Endpoints whose circuit breaker is open: they fail and are only probed",
            Some(probed),
        )?;
        let EndpointCounts {
            served,
            off,
            out_of_service,
        } = self.endpoints;
        let endpoints = [("served", served), ("off", off), ("out_of_service", out_of_service)];
        encoder.gauges(
            "endpoints",
            "Endpoints that are configured, by state",
            "state",
            endpoints,
        )?;
        encoder.gauge(
            "holds",
            "Holds that last: of everything, of organizations and of endpoints",
            Some(self.holds),
        )?;
        encoder.gauge(
            "suspended_endpoints",
            "Endpoints of this instance to which nothing is sent but a probe now and then, after nothing but failures or a 410",
            Some(self.suspended),
        )
    }

    fn sources(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        encoder.gauge(
            "lease_held",
            "1 where this instance is the one that scans and watches",
            Some(i64::from(self.has_lease)),
        )?;
        encoder.gauge(
            "stream_token_age_seconds",
            "How long ago the change stream last moved; only where it is followed",
            self.stream_age.map(|age| age.as_secs_f64()),
        )?;
        encoder.gauge(
            "last_scan_timestamp_seconds",
            "When the last scan of this instance ended",
            self.last_scan.map(seconds),
        )?;
        encoder.gauge(
            "scan_due_timestamp_seconds",
            "When the schedule has the next scan after the last one; only where this instance scans",
            self.scan_due.map(seconds),
        )?;
        let rejected = EventType::ALL.map(|event| ([("event", event.as_str())], self.rejections.count(event)));
        encoder.counters("rejected", "Documents that can't be events", rejected)?;
        encoder.counters(
            "unconfigured_events",
            "Events of organizations that have no configuration document: nothing is sent",
            [([], self.rejections.unconfigured())],
        )?;
        encoder.gauge(
            "mongodb_outage_seconds",
            "How long MongoDB has been unavailable or has refused the login; 0 while it is neither",
            Some(self.outage.unwrap_or_default().as_secs_f64()),
        )?;
        encoder.gauge(
            "proxy_up",
            "1 while the forward proxy works, 0 while all that goes through it waits; only where one is configured",
            self.proxy_up.map(i64::from),
        )
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of this age fit")]
fn seconds(at: DateTime) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}
