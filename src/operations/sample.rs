//! Sending an endpoint an event that never happened.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use http::{HeaderName, HeaderValue};

use super::executor::Parts;
use crate::model::{EndpointKey, EventType, Message, Outcome};
use crate::outbox::Selection;
use crate::platform::{Endpoint, Found, badge_user};
use crate::sandbox;

/// What tells a receiver that nothing has happened.
pub const TEST_HEADER: HeaderName = HeaderName::from_static("x-webhook-test");

/// An event that never happened, as the platform would tell it.
///
/// # Errors
/// Why it makes no event.
pub fn sample(endpoint: &Endpoint, event_type: EventType, now: DateTime) -> Result<Message, String> {
    let organization = endpoint.key.organization();
    let organization = ObjectId::parse_str(organization).map_or_else(|_| Bson::from(organization), Bson::from);
    let certificate = RawDocumentBuf::try_from(sandbox::certificate(organization, event_type, now));
    let certificate = certificate.map_err(|error| error.to_string())?;
    let event = match event_type {
        EventType::CertificateCompleted => badge_user::completed(&certificate),
        EventType::CertificateExpired => badge_user::expired(&certificate, now),
    };
    event.map(|event| event.message).map_err(|unfit| unfit.reason)
}

/// Sends a sample to the endpoint that is selected. Returns the operation's `result`.
///
/// # Errors
/// Why nothing was sent.
pub(super) async fn send(parts: &Parts, selection: &Selection) -> Result<Document, String> {
    let key = EndpointKey::from_stored(selection.endpoint.as_deref().unwrap_or_default());
    let mut endpoint = match parts.directory.find(&key) {
        Found::Served(endpoint) => Endpoint::clone(&endpoint),
        Found::OutOfService { reason } => return Err(format!("endpoint {key} is out of service: {reason}")),
        Found::Off { reason } => return Err(format!("endpoint {key}: {reason}")),
        Found::Email { .. } => return Err("a sample goes to a webhook endpoint, not to e-mails".into()),
    };
    let event_type = selection.event_type.or(endpoint.event_types.first().copied());
    let event_type = event_type.unwrap_or(EventType::CertificateExpired);
    let now = parts.clock.now();
    let message = sample(&endpoint, event_type, now)?;
    endpoint.headers.insert(TEST_HEADER, HeaderValue::from_static("true"));
    let (outcome, response) = parts.client.get().inspect(&endpoint, &message, now).await;
    let (is_delivered, reason, elapsed) = match outcome {
        Outcome::Delivered { elapsed, .. } => (true, None, Some(elapsed)),
        Outcome::TransientFailure(failure) | Outcome::Gone(failure) | Outcome::PermanentFailure(failure) => {
            (false, Some(failure.reason), Some(failure.elapsed))
        }
        Outcome::Cancelled { reason } => (false, Some(reason), None),
        Outcome::ProxyUnavailable { reason } => return Err(format!("nothing was sent: {reason}")),
        Outcome::NotSent => return Err("the daemon stopped before there was a response".into()),
    };
    let millis = elapsed.map(|elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX));
    let status = response.map(|response| i32::from(response.status.as_u16()));
    Ok(doc! {
        "delivered": is_delivered, "eventType": event_type.as_str(), "status": status, "reason": reason, "ms": millis,
    })
}
