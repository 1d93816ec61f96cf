//! A certificate that a user holds, as the platform wrote it, and the events that it yields.

use bson::{DateTime, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};
use bytes::Bytes;

use super::json;
use crate::model::{EventId, EventType, Message, id_part};

/// The longest `_id`, in bytes: it is stored with the payload in a delivery, which has 16 MB in all.
const MAX_ID: usize = 64 << 10;

/// Something that happened to a certificate.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened to it.
    pub event_type: EventType,
    /// What goes out.
    pub message: Message,
    /// The certificate's `_id`.
    pub certificate: RawBson,
    /// The organization, as in an [`EndpointKey`](crate::model::EndpointKey).
    pub organization: String,
    /// When it happened: `expires` or `creationDate`.
    pub occurred_at: DateTime,
}

/// A certificate that can't be an event.
#[derive(Clone, Debug)]
pub struct Unfit {
    /// The id that the event would have had.
    pub event_id: EventId,
    /// The certificate's `_id`; null if it is too large to be kept.
    pub certificate: RawBson,
    /// What is wrong, in one line.
    pub reason: String,
}

/// The event of a certificate that has expired. The payload is the document as it will be when it is marked at `marked_at`.
///
/// # Errors
/// The document has no `_ownerId`, no `expires` date, an `expiryReminderSent` that says neither yes nor no, or can't be printed as
/// JSON.
pub fn expired(document: &RawDocument, marked_at: DateTime) -> Result<Event, Unfit> {
    let event = event(document, EventType::CertificateExpired, "expires", || {
        marked(document, marked_at)
    })?;
    match document.get("expiryReminderSent") {
        Ok(None | Some(RawBsonRef::Boolean(_) | RawBsonRef::Null | RawBsonRef::Undefined)) => Ok(event),
        _ => Err(Unfit {
            event_id: event.message.event_id,
            certificate: event.certificate,
            reason: "`expiryReminderSent` is not a boolean".into(),
        }),
    }
}

/// The event of a certificate that has expired and is marked. The payload is the document as it is.
///
/// # Errors
/// As [`expired`].
pub fn expired_before(document: &RawDocument) -> Result<Event, Unfit> {
    event(document, EventType::CertificateExpired, "expires", || {
        Ok(document.to_owned())
    })
}

/// The event of a certificate that was awarded. The payload is the document as it is.
///
/// # Errors
/// The document has no `_ownerId`, no `creationDate` date, or can't be printed as JSON.
pub fn completed(document: &RawDocument) -> Result<Event, Unfit> {
    event(document, EventType::CertificateCompleted, "creationDate", || {
        Ok(document.to_owned())
    })
}

/// Whether the document says when it was awarded. A platform may insert it first and say so in a second write.
pub fn is_awarded(document: &RawDocument) -> bool {
    !matches!(
        document.get("creationDate"),
        Ok(None | Some(RawBsonRef::Null | RawBsonRef::Undefined))
    )
}

fn event(
    document: &RawDocument,
    event_type: EventType,
    instant: &str,
    payload: impl FnOnce() -> bson::error::Result<RawDocumentBuf>,
) -> Result<Event, Unfit> {
    let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
    let occurred_at = document.get_datetime(instant);
    let at = occurred_at.as_ref().copied().unwrap_or(DateTime::from_millis(0));
    let event_id = EventId::derive(event_type, id, at);
    let id_bytes = size(id);
    let unfit = |reason: String| Unfit {
        event_id: event_id.clone(),
        certificate: if id_bytes > MAX_ID { RawBson::Null } else { id.into() },
        reason,
    };
    if id_bytes > MAX_ID {
        return Err(unfit(format!("its `_id` has {id_bytes} bytes, more than {MAX_ID}")));
    }
    if occurred_at.is_err() {
        return Err(unfit(format!("`{instant}` is not a date")));
    }
    let organization = organization(document).ok_or_else(|| unfit("`_ownerId` is missing".into()))?;
    let body = body(payload).map_err(unfit)?;
    Ok(Event {
        event_type,
        message: Message {
            event_id: event_id.clone(),
            event_type: event_type.into(),
            body,
            is_replay: false,
        },
        certificate: RawBson::from(id),
        organization,
        occurred_at: at,
    })
}

fn organization(document: &RawDocument) -> Option<String> {
    let id = document.get("_ownerId").ok().flatten()?;
    (!matches!(id, RawBsonRef::Null | RawBsonRef::Undefined)).then(|| id_part(id))
}

fn body(payload: impl FnOnce() -> bson::error::Result<RawDocumentBuf>) -> Result<Bytes, String> {
    let payload = payload().map_err(|error| format!("malformed BSON: {error}"))?;
    let body = json::to_json(&payload).map_err(|error| format!("can't be printed as JSON: {error}"))?;
    if body.len() > Message::MAX_BODY {
        return Err(format!(
            "its JSON has {} bytes, more than a delivery can hold",
            body.len()
        ));
    }
    Ok(body)
}

fn size(value: RawBsonRef<'_>) -> usize {
    match value {
        RawBsonRef::String(text) => text.len(),
        RawBsonRef::Document(document) => document.as_bytes().len(),
        RawBsonRef::Binary(binary) => binary.bytes.len(),
        // Arrays and regular expressions are refused as `_id`; all else is small.
        _ => 0,
    }
}

/// The document as `$set: {expiryReminderSent: true, updatedAt}` leaves it: in place, or at the end in this order.
fn marked(document: &RawDocument, at: DateTime) -> bson::error::Result<RawDocumentBuf> {
    let mut marked = RawDocumentBuf::new();
    let (mut sent, mut updated) = (false, false);
    for element in document {
        let (key, value) = element?;
        match key.as_str() {
            "expiryReminderSent" => {
                sent = true;
                marked.append(key, true);
            }
            "updatedAt" => {
                updated = true;
                marked.append(key, at);
            }
            _ => marked.append(key, value),
        }
    }
    if !sent {
        marked.append(bson::cstr!("expiryReminderSent"), true);
    }
    if !updated {
        marked.append(bson::cstr!("updatedAt"), at);
    }
    Ok(marked)
}
