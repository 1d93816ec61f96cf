//! Events, endpoints, and the keys under which both are stored.

use std::fmt;
use std::sync::Arc;

use bson::oid::ObjectId;
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

/// What a message tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MessageType {
    /// A certificate, to an endpoint that is subscribed.
    Event(EventType),
    /// An endpoint, to the platform.
    Notice(NoticeType),
}

impl MessageType {
    /// As in `X-Webhook-Event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event(event) => event.as_str(),
            Self::Notice(notice) => notice.as_str(),
        }
    }

    /// The type of that name, or `None` for a name that this daemon does not know.
    pub fn parse(name: &str) -> Option<Self> {
        let mut notices = NoticeType::ALL.into_iter();
        let event = EventType::parse(name).map(Self::Event);
        event.or_else(|| notices.find(|notice| notice.as_str() == name).map(Self::Notice))
    }
}

impl From<EventType> for MessageType {
    fn from(event: EventType) -> Self {
        Self::Event(event)
    }
}

/// What the platform is told about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoticeType {
    /// It has failed for a while.
    EndpointFailing,
    /// Nothing is sent to it any more, but for a probe now and then.
    EndpointSuspended,
    /// It answers again.
    EndpointRecovered,
    /// Deliveries to it became dead letters.
    DeliveryDead,
    /// Certificates of its own end.
    EndpointCertificateEnds,
}

impl NoticeType {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::EndpointFailing,
        Self::EndpointSuspended,
        Self::EndpointRecovered,
        Self::DeliveryDead,
        Self::EndpointCertificateEnds,
    ];

    /// As in `type` and `X-Webhook-Event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointFailing => "endpoint.failing",
            Self::EndpointSuspended => "endpoint.suspended",
            Self::EndpointRecovered => "endpoint.recovered",
            Self::DeliveryDead => "delivery.dead",
            Self::EndpointCertificateEnds => "endpoint.certificate_ends",
        }
    }
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
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }

    /// How the ids of that certificate's events of this type begin.
    pub fn id_prefix(self, certificate: &str) -> String {
        format!("{self}_{certificate}_")
    }

    /// Whether a name begins as the id of an event does: with its type.
    pub fn begins(name: &str) -> bool {
        Self::ALL.iter().any(|known| name.starts_with(known.as_str()))
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

    /// The id of what the platform is told about an endpoint: the same for one endpoint, type and instant.
    pub fn of_notice(notice: NoticeType, endpoint: &EndpointKey, instant: DateTime) -> Self {
        let (name, instant) = (notice.as_str(), instant.timestamp_millis());
        Self(format!("{name}_{endpoint}_{instant}").replace(['.', '/'], "_").into())
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

/// The name of one endpoint of one organization: `ORGANIZATION/ENDPOINT`. Safe to log: holds no URL and no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(Arc<str>);

const EMAIL: &str = "all/email";

const NOTICES: &str = "all/notices";

impl EndpointKey {
    /// The key of the endpoint with that `_id`; without one, a stable hash of organization and URL takes its place.
    pub fn derive(organization: RawBsonRef<'_>, id: Option<RawBsonRef<'_>>, url: &str) -> Self {
        Self::of(&id_part(organization), id, url)
    }

    /// The same, for an organization whose part of the key is known.
    pub(crate) fn of(organization: &str, id: Option<RawBsonRef<'_>>, url: &str) -> Self {
        let endpoint = match id {
            Some(id) => id_part(id),
            None => format!("u{}", short_hash(&[organization.as_bytes(), b"\0", url.as_bytes()])),
        };
        Self(format!("{organization}/{endpoint}").into())
    }

    /// The key of reminders by e-mail, of all organizations: the parts of other keys are hashes and ObjectIds.
    pub fn email() -> Self {
        Self(EMAIL.into())
    }

    /// Whether it is that of e-mails.
    pub fn is_email(&self) -> bool {
        &*self.0 == EMAIL
    }

    /// The key of what the platform is told about endpoints.
    pub fn notices() -> Self {
        Self(NOTICES.into())
    }

    /// Whether it is that of e-mails or of notices: no organization has configured it.
    pub fn is_own(&self) -> bool {
        matches!(&*self.0, EMAIL | NOTICES)
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
    pub fn organization(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(organization, _)| organization)
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
    pub event_type: MessageType,
    /// The request's body, byte for byte.
    pub body: Bytes,
    /// Whether it is sent again, or late, because somebody asked for it: `X-Webhook-Replay`.
    pub is_replay: bool,
}

impl Message {
    /// A longer body, in bytes, does not fit in a document of the outbox (16 MB with all its other fields).
    pub const MAX_BODY: usize = 15 << 20;
}

/// The id of a certificate as it is in an event's id: 24 hex digits of an ObjectId; of anything else `h` and a hash of type and
/// bytes, so that the string `"65…"` and the ObjectId `65…` stay two, and no hostile id puts a dot, a slash or a megabyte in a key.
pub(crate) fn key_part(id: RawBsonRef<'_>) -> String {
    if let RawBsonRef::ObjectId(id) = id {
        return id.to_hex();
    }
    let mut holder = bson::RawDocumentBuf::new();
    holder.append(bson::cstr!("k"), RawBson::from(id));
    format!("h{}", short_hash(&[holder.as_bytes()]))
}

/// The id of an organization or an endpoint as it is in a key: the same for an ObjectId and its hex text, and for one whole number
/// as Int32, Int64 and Double, because a platform that writes them in two places may write two types. Else as that of a certificate.
pub fn id_part(id: RawBsonRef<'_>) -> String {
    match id {
        RawBsonRef::String(text) if text.len() == 24 => match ObjectId::parse_str(text) {
            Ok(id) => id.to_hex(),
            Err(_) => key_part(id),
        },
        RawBsonRef::Int32(n) => key_part(RawBsonRef::Int64(n.into())),
        RawBsonRef::Double(n) => whole(n).map_or_else(|| key_part(id), |n| key_part(RawBsonRef::Int64(n))),
        _ => key_part(id),
    }
}

fn whole(n: f64) -> Option<i64> {
    // As a Double, i64::MAX is 2^63, which is no i64.
    let is_whole = n.fract() == 0.0 && n >= i64::MIN as f64 && n < i64::MAX as f64;
    is_whole.then_some(n as i64)
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

    #[test]
    fn ids_of_certificates_of_different_types_never_meet() {
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
    fn ids_of_organizations_and_endpoints_match_across_types() {
        let oid = ObjectId::from_bytes([0xab; 12]);
        let (lower, upper) = (oid.to_hex(), oid.to_hex().to_uppercase());
        let same: [&[RawBsonRef<'_>]; 4] = [
            &[oid.into(), lower.as_str().into(), upper.as_str().into()],
            &[7.into(), 7_i64.into(), 7.0.into()],
            &[0.into(), 0_i64.into(), (-0.0).into()],
            &[i64::MIN.into(), (-9_223_372_036_854_775_808.0).into()],
        ];
        for ids in same {
            assert!(ids.iter().all(|id| id_part(*id) == id_part(ids[0])), "{ids:?}");
        }
        let different: [[RawBsonRef<'_>; 2]; 7] = [
            [oid.into(), ObjectId::from_bytes([0xac; 12]).into()],
            [oid.into(), "abababababababababababa".into()],
            [oid.into(), " abababababababababababab".into()],
            [7.into(), "7".into()],
            [7.into(), 7.5.into()],
            [i64::MAX.into(), 9_223_372_036_854_775_808.0.into()],
            ["a".into(), "A".into()],
        ];
        for [one, other] in different {
            assert_ne!(id_part(one), id_part(other), "{one:?} and {other:?}");
        }
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
    fn an_endpoint_without_id_is_known_by_organization_and_url() {
        let key = |organization, url| EndpointKey::derive(RawBsonRef::String(organization), None, url);
        assert_eq!(key("a", "https://x.test/"), key("a", "https://x.test/"));
        assert_ne!(key("a", "https://x.test/"), key("b", "https://x.test/"));
        assert_ne!(key("a", "https://x.test/"), key("a", "https://y.test/"));
    }
}
