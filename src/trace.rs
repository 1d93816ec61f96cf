//! Traces by OpenTelemetry, where a collector is configured: one for each event, from its discovery to each response.
//!
//! The trace's id and that of its first span are derived from the event's id. So nothing of a trace is stored, and an attempt
//! belongs to its event's trace whichever daemon makes it, and whenever. Spans are values in a bounded queue: where the
//! collector can't keep up they are lost, and no delivery waits for them.

mod attempt;
mod exporter;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::DateTime;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use url::Url;

use crate::model::{EndpointKey, EventId, Message};

pub use attempt::Attempt;
pub use exporter::Exporter;

/// Spans that wait for the collector, at most.
const CAPACITY: usize = 8192;

/// What makes spans. By default it is off, and makes none.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    spans: mpsc::Sender<SpanData>,
    /// Spans that did not fit in the queue, until the exporter logs them.
    lost: Arc<AtomicU64>,
    exporter: Mutex<Option<Exporter>>,
}

impl Tracer {
    /// A tracer for the collector at `url`; without one it is off.
    ///
    /// # Errors
    /// The HTTP client can't be built: no usable TLS roots, as a rule.
    pub fn new(url: Option<&Url>) -> anyhow::Result<Self> {
        let Some(url) = url else { return Ok(Self::default()) };
        let (spans, queue) = mpsc::channel(CAPACITY);
        let lost = Arc::<AtomicU64>::default();
        let exporter = Exporter::new(url, queue, Arc::clone(&lost))?;
        Ok(Self(Some(Arc::new(Shared {
            spans,
            lost,
            exporter: Mutex::new(Some(exporter)),
        }))))
    }

    /// Whether spans are made.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What sends the spans. `None`: the tracer is off, or somebody has it already.
    pub fn exporter(&self) -> Option<Exporter> {
        self.0.as_ref()?.exporter.lock().take()
    }

    /// Events were found at `began` and are in the outbox now, `took` later. Where an event goes to several endpoints and is
    /// named once for each, one after the other, it makes one span.
    pub fn found<'a>(
        &self,
        events: impl Iterator<Item = (&'a Message, &'a EndpointKey)>,
        began: DateTime,
        took: Duration,
    ) {
        let Some(shared) = &self.0 else { return };
        let mut last = None;
        for (message, endpoint) in
            events.filter(|(message, _)| last.replace(&message.event_id) != Some(&message.event_id))
        {
            let (trace, id) = derive(&message.event_id);
            let attributes = vec![
                KeyValue::new("certhookd.event_id", message.event_id.to_string()),
                KeyValue::new("certhookd.organization", endpoint.organization().to_owned()),
            ];
            let name = Cow::Borrowed(message.event_type.as_str());
            shared.end(span(trace, id, SpanId::INVALID, name, began, took, attributes));
        }
    }

    /// An attempt to deliver that event begins.
    pub fn attempt(&self, message: &Message, endpoint: &EndpointKey, number: u32, began: DateTime) -> Option<Attempt> {
        let shared = self.0.as_ref()?;
        Some(Attempt::begin(Arc::clone(shared), message, endpoint, number, began))
    }
}

impl Shared {
    fn end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The id of an event's trace, and that of its first span.
fn derive(event: &EventId) -> (TraceId, SpanId) {
    let hash: [u8; 32] = Sha256::digest(event.as_str()).into();
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&hash[..16]);
    span.copy_from_slice(&hash[16..24]);
    (TraceId::from_bytes(trace), SpanId::from_bytes(span))
}

fn span(
    trace: TraceId,
    id: SpanId,
    parent: SpanId,
    name: Cow<'static, str>,
    began: DateTime,
    took: Duration,
    attributes: Vec<KeyValue>,
) -> SpanData {
    let began = began.to_system_time();
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Producer,
        name,
        start_time: began,
        end_time: began + took,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("certhookd").build(),
    }
}
