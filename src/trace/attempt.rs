//! The span of one attempt.

use std::sync::Arc;

use bson::DateTime;
use http::HeaderValue;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceId};
use tokio::time::Instant;

use super::{Shared, derive, span};
use crate::model::{EndpointKey, Message, Outcome};

/// An attempt that is under way. Dropped without an end, it makes no span.
#[derive(Debug)]
pub struct Attempt {
    shared: Arc<Shared>,
    trace: TraceId,
    parent: SpanId,
    id: SpanId,
    began: DateTime,
    clock: Instant,
    attributes: Vec<KeyValue>,
}

impl Attempt {
    pub(super) fn begin(
        shared: Arc<Shared>,
        message: &Message,
        endpoint: &EndpointKey,
        number: u32,
        began: DateTime,
    ) -> Self {
        let (trace, parent) = derive(&message.event_id);
        Self {
            shared,
            trace,
            parent,
            id: SpanId::from_bytes(fastrand::u64(1..).to_be_bytes()),
            began,
            clock: Instant::now(),
            attributes: vec![
                KeyValue::new("certhookd.event_id", message.event_id.to_string()),
                KeyValue::new("certhookd.event_type", message.event_type.as_str()),
                KeyValue::new("certhookd.organization", endpoint.organization().to_owned()),
                KeyValue::new("certhookd.endpoint", endpoint.endpoint().to_owned()),
                KeyValue::new("certhookd.attempt", i64::from(number)),
            ],
        }
    }

    /// The request's `traceparent` ([W3C](https://www.w3.org/TR/trace-context/#traceparent-header)): the receiver's spans become
    /// children of this one. `None` can't happen: it is made of hex digits.
    pub fn traceparent(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("00-{}-{}-01", self.trace, self.id)).ok()
    }

    /// The attempt has ended so. One that was interrupted was none.
    pub fn end(mut self, outcome: &Outcome) {
        let (word, status, error) = match outcome {
            Outcome::Delivered { status, .. } => ("delivered", Some(*status), None),
            Outcome::TransientFailure(failure) => ("failed", failure.status, Some(&failure.reason)),
            Outcome::Gone(failure) | Outcome::PermanentFailure(failure) => {
                ("refused", failure.status, Some(&failure.reason))
            }
            Outcome::Cancelled { reason } => ("cancelled", None, Some(reason)),
            Outcome::NotSent | Outcome::ProxyUnavailable { .. } => return,
        };
        self.attributes.push(KeyValue::new("certhookd.outcome", word));
        if let Some(status) = status {
            self.attributes
                .push(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        let took = self.clock.elapsed();
        let mut span = span(
            self.trace,
            self.id,
            self.parent,
            "attempt".into(),
            self.began,
            took,
            self.attributes,
        );
        span.span_kind = SpanKind::Client;
        if let Some(reason) = error {
            span.status = Status::error(reason.clone());
        }
        self.shared.end(span);
    }
}
