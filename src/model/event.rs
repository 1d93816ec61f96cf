//! What happened, to whom it goes, and the names under which both are kept.

use std::fmt;
use std::sync::Arc;

use bson::{DateTime, RawBson, RawBsonRef};
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The platform's event types that this daemon emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// A certificate was awarded, or awarded again.
    CertificateCompleted,
    /// A certificate's `expires` has passed.
    CertificateExpired,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::CertificateCompleted, Self::CertificateExpired];

    /// The platform's name for it, as in `eventTypes` and `X-Webhook-Event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertificateCompleted => "certificate_completed",
            Self::CertificateExpired => "certificate_expired",
        }
    }

    /// The type of that name, or `None` for a name that this daemon does not know.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == name)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of one event, the same however often it is found: `webhook-id` on the wire.
///
/// Made of event type, BadgeUser id and the instant (`expires` or `creationDate`) in milliseconds. Holds no dot, because
/// Standard Webhooks signs `id.timestamp.body`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

impl EventId {
    /// Derives the id of the event that happened to BadgeUser `id` at `instant`.
    pub fn derive(event_type: EventType, id: RawBsonRef<'_>, instant: DateTime) -> Self {
        let instant = instant.timestamp_millis();
        Self(format!("{event_type}_{}_{instant}", key_part(id)).into())
    }

    /// An id that was derived before, as read from the outbox.
    pub fn from_stored(id: &str) -> Self {
        Self(id.into())
    }

    /// The instant that it was derived from; `None` if it was not derived here.
    pub fn instant(&self) -> Option<DateTime> {
        let (_, millis) = self.0.rsplit_once('_')?;
        millis.parse().ok().map(DateTime::from_millis)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one endpoint of one organization: `OWNER/ENDPOINT`. Safe to log: holds no URL and no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(Arc<str>);

const EMAIL: &str = "all/email";

impl EndpointKey {
    /// The key of the endpoint with that `_id`; without one, a stable hash of owner and URL stands in for it.
    pub fn derive(owner: RawBsonRef<'_>, id: Option<RawBsonRef<'_>>, url: &str) -> Self {
        let owner_part = key_part(owner);
        let endpoint_part = match id {
            Some(id) => key_part(id),
            None => format!("u{}", short_hash(&[owner_part.as_bytes(), b"\0", url.as_bytes()])),
        };
        Self(format!("{owner_part}/{endpoint_part}").into())
    }

    /// The lane of reminders by e-mail, of all organizations: the parts of other keys are hashes and ObjectIds.
    pub fn email() -> Self {
        Self(EMAIL.into())
    }

    /// Whether it is that of e-mails.
    pub fn is_email(&self) -> bool {
        &*self.0 == EMAIL
    }

    /// A key that was derived before, as read from the outbox or a command line.
    pub fn from_stored(key: &str) -> Self {
        Self(key.into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The organization's part of the key.
    pub fn owner(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(owner, _)| owner)
    }

    /// The endpoint's part of the key.
    pub fn endpoint(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, endpoint)| endpoint)
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One event as it goes to one endpoint.
#[derive(Clone, Debug)]
pub struct Message {
    /// Becomes `webhook-id`.
    pub event_id: EventId,
    /// Becomes `X-Webhook-Event`.
    pub event_type: EventType,
    /// The request's body, byte for byte.
    pub body: Bytes,
}

impl Message {
    /// A longer body, in bytes, does not fit in a document of the outbox (16 MB with all else that stands in it).
    pub const MAX_BODY: usize = 15 << 20;
}

/// An id as it stands in a key. An ObjectId is its 24 hex digits; anything else is `h` and a hash of type and bytes, so
/// that the string `"65…"` and the ObjectId `65…` stay two, and no hostile id puts a dot, a slash or a megabyte in a key.
pub(crate) fn key_part(id: RawBsonRef<'_>) -> String {
    if let RawBsonRef::ObjectId(id) = id {
        return id.to_hex();
    }
    let mut holder = bson::RawDocumentBuf::new();
    holder.append(bson::cstr!("k"), RawBson::from(id));
    format!("h{}", short_hash(&[holder.as_bytes()]))
}

fn short_hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize()[..12].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::oid::ObjectId;

    #[test]
    fn ids_of_different_types_never_meet() {
        let oid = ObjectId::parse_str("674700000000000000000001").unwrap();
        let at = DateTime::from_millis(1_764_239_400_000);
        let of = |id| EventId::derive(EventType::CertificateExpired, id, at).to_string();
        assert_eq!(
            of(RawBsonRef::ObjectId(oid)),
            "certificate_expired_674700000000000000000001_1764239400000"
        );
        assert_ne!(
            of(RawBsonRef::String("674700000000000000000001")),
            of(RawBsonRef::ObjectId(oid))
        );
        assert!(!of(RawBsonRef::String("a.b/c")).contains(['.', '/']));
        assert_ne!(of(RawBsonRef::Int32(1)), of(RawBsonRef::Int64(1)));
    }

    #[test]
    fn an_id_tells_when_its_event_happened_before_1970_too() {
        for millis in [-1, 0, 1_764_239_400_000] {
            let at = DateTime::from_millis(millis);
            let id = EventId::derive(EventType::CertificateExpired, RawBsonRef::Int32(1), at);
            assert_eq!(id.instant(), Some(at));
        }
    }

    #[test]
    fn an_endpoint_without_id_is_known_by_owner_and_url() {
        let key = |owner, url| EndpointKey::derive(RawBsonRef::String(owner), None, url);
        assert_eq!(key("a", "https://x.test/"), key("a", "https://x.test/"));
        assert_ne!(key("a", "https://x.test/"), key("b", "https://x.test/"));
        assert_ne!(key("a", "https://x.test/"), key("a", "https://y.test/"));
    }
}
