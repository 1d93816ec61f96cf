//! How a delivery is laid out in MongoDB, version 1. Documents of every released version must stay readable:
//! `tests/data/outbox-v1.json` holds one of each state.

use bson::{Bson, DateTime, RawBson, RawDocument, RawDocumentBuf, cstr, rawdoc};
use bytes::Bytes;

use crate::model::{EndpointKey, EventId, EventType, Message};

/// The version of the layout that this daemon writes.
const VERSION: i32 = 1;

/// A delivery that is to be written.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// What to send.
    pub message: Message,
    /// To whom.
    pub endpoint: EndpointKey,
    /// The BadgeUser's `_id`.
    pub badge_user: RawBson,
    /// When it happened: `expires` or `creationDate`.
    pub occurred_at: DateTime,
}

/// A delivery that this daemon holds a claim on.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What to send.
    pub message: Message,
    /// To whom.
    pub endpoint: EndpointKey,
    /// Attempts so far, this claim's included: an attempt is counted before it is made.
    pub attempts: u32,
    /// When the first attempt that failed began.
    pub first_attempt_at: Option<DateTime>,
    /// The claim's number.
    pub claim: i64,
    /// Whether it was a dead letter and is tried once more: see [`Outbox::redrive`](super::Outbox::redrive).
    pub redriven: bool,
}

/// The `_id` of a delivery. The event's id holds no slash.
pub(crate) fn delivery_id(event: &EventId, endpoint: &EndpointKey) -> String {
    format!("{event}/{endpoint}")
}

impl Claimed {
    /// The delivery's `_id`.
    pub fn id(&self) -> String {
        delivery_id(&self.message.event_id, &self.endpoint)
    }
}

impl NewDelivery {
    /// The delivery's `_id`.
    pub(crate) fn id(&self) -> String {
        delivery_id(&self.message.event_id, &self.endpoint)
    }

    /// The delivery as if claimed for its first attempt under this number.
    pub(crate) fn claimed(&self, claim: i64) -> Claimed {
        Claimed {
            message: self.message.clone(),
            endpoint: self.endpoint.clone(),
            attempts: 1,
            first_attempt_at: None,
            claim,
            redriven: false,
        }
    }

    /// The document, in the given state.
    pub(crate) fn encode(&self, now: DateTime, birth: Birth<'_>) -> RawDocumentBuf {
        let payload = String::from_utf8_lossy(&self.message.body);
        let mut document = rawdoc! {
            "_id": self.id(),
            "v": VERSION,
            "state": if matches!(birth, Birth::Pending) { "pending" } else { "claimed" },
            "endpoint": self.endpoint.as_str(),
            "eventType": self.message.event_type.as_str(),
            "badgeUserId": self.badge_user.clone(),
            "occurredAt": self.occurred_at,
            "createdAt": now,
            // What happened first goes out first; a retry moves to the end.
            "due": self.occurred_at.min(now),
        };
        match birth {
            Birth::Pending => document.append(cstr!("attempts"), 0),
            // An attempt is counted before it is made.
            Birth::Claimed { owner, number } => {
                document.append(cstr!("attempts"), 1);
                document.append(cstr!("claim"), rawdoc! { "by": owner, "n": number });
            }
        }
        document.append(cstr!("payload"), &*payload);
        document
    }
}

/// How a delivery comes into the world.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Birth<'a> {
    /// Free for the feeder.
    Pending,
    /// Held by `owner`.
    Claimed { owner: &'a str, number: i64 },
}

/// Reads a pending delivery for a claim that is about to be made under number `claim`; counts the attempt.
///
/// # Errors
/// The field that is missing or of another type.
pub(crate) fn decode(document: &RawDocument, claim: i64) -> Result<Claimed, String> {
    let text = |field| {
        document
            .get_str(field)
            .map_err(|_| format!("`{field}` is not a string"))
    };
    let (event, endpoint) = text("_id")?.split_once('/').ok_or("`_id` holds no endpoint")?;
    let event_type = EventType::parse(text("eventType")?).ok_or("`eventType` is unknown")?;
    let attempts = document.get_i32("attempts").map_err(|_| "`attempts` is not an Int32")?;
    Ok(Claimed {
        message: Message {
            event_id: EventId::from_stored(event),
            event_type,
            body: Bytes::copy_from_slice(text("payload")?.as_bytes()),
        },
        endpoint: EndpointKey::from_stored(endpoint),
        attempts: u32::try_from(attempts).unwrap_or(0).saturating_add(1),
        first_attempt_at: document.get_datetime("firstAttemptAt").ok(),
        claim,
        redriven: document.get_datetime("deadSince").is_ok(),
    })
}

/// The `_id` of a document as text, for a list of ids.
pub(crate) fn id_of(document: &RawDocument) -> Option<String> {
    document.get_str("_id").ok().map(str::to_owned)
}

/// Ids as an `$in` wants them.
pub(crate) fn id_list(ids: impl IntoIterator<Item = String>) -> Bson {
    Bson::Array(ids.into_iter().map(Bson::String).collect())
}

/// Has a query use the index of that name.
pub(super) fn hint(index: &str) -> mongodb::options::Hint {
    mongodb::options::Hint::Name(index.into())
}
