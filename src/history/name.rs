//! What somebody may call a certificate, an event, a delivery or a document.

use bson::oid::ObjectId;
use bson::{Bson, RawBson};

use crate::model::{EventType, key_part};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Name {
    /// A certificate: what its `_id` may be, and how each is written in an event's id.
    Certificate { ids: Vec<Bson>, keys: Vec<String> },
    /// An event, of all endpoints or of one.
    Event { event: String, endpoint: Option<String> },
    /// A document of the outbox, or a certificate whose `_id` has a slash.
    Document { id: String, certificate: Box<Self> },
}

impl Name {
    pub(super) fn of(asked: &str) -> Self {
        let asked = ["rejected/", "unmarkable/"]
            .iter()
            .find_map(|kind| asked.strip_prefix(kind))
            .unwrap_or(asked);
        let is_event = EventType::ALL
            .iter()
            .any(|known| asked.starts_with(&format!("{known}_")));
        if is_event {
            let (event, endpoint) = asked
                .split_once('/')
                .map_or((asked, None), |(event, key)| (event, Some(key)));
            return Self::Event {
                event: event.to_owned(),
                endpoint: endpoint.map(str::to_owned),
            };
        }
        let certificate = Self::certificate(asked);
        match asked.contains('/') {
            true => Self::Document {
                id: asked.to_owned(),
                certificate: Box::new(certificate),
            },
            false => certificate,
        }
    }

    /// An `_id` may be of any type: what people write may be each of those that look like it.
    fn certificate(asked: &str) -> Self {
        let mut ids = vec![Bson::from(asked)];
        ids.extend(ObjectId::parse_str(asked).ok().map(Bson::from));
        ids.extend(asked.parse::<i32>().ok().map(Bson::from));
        ids.extend(asked.parse::<i64>().ok().map(Bson::from));
        ids.extend(
            asked
                .parse::<f64>()
                .ok()
                .filter(|number| number.to_string() == asked)
                .map(Bson::from),
        );
        let raw = ids.iter().filter_map(|id| RawBson::try_from(id.clone()).ok());
        let mut keys: Vec<_> = raw.map(|id| key_part(id.as_raw_bson_ref())).collect();
        // As it is in an event's id.
        if is_hash(asked) {
            keys.push(asked.to_owned());
        }
        Self::Certificate { ids, keys }
    }

    /// What the `_id` of the certificate may be.
    pub(super) fn certificate_ids(&self) -> Vec<Bson> {
        match self {
            Self::Certificate { ids, .. } => ids.clone(),
            Self::Document { .. } => Vec::new(),
            Self::Event { event, .. } => {
                let id = key_of(event).and_then(|key| ObjectId::parse_str(key).ok());
                id.map(Bson::from).into_iter().collect()
            }
        }
    }
}

/// The certificate's part of an event's id: `TYPE_KEY_INSTANT`, where a type has an underscore itself.
pub(super) fn key_of(event: &str) -> Option<&str> {
    let kind = EventType::ALL
        .iter()
        .find(|known| event.starts_with(&format!("{known}_")))?;
    let rest = &event[kind.as_str().len() + 1..];
    rest.rsplit_once('_').map(|(key, _)| key)
}

fn is_hash(text: &str) -> bool {
    text.len() == 25 && text.starts_with('h') && text[1..].bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "674700000000000000000001";

    #[test]
    fn a_name_may_be_of_each_kind() {
        let event = format!("certificate_expired_{HEX}_1000");
        let of_event = |endpoint: Option<&str>| Name::Event {
            event: event.clone(),
            endpoint: endpoint.map(str::to_owned),
        };
        for (asked, name) in [
            (event.clone(), of_event(None)),
            (format!("{event}/o/e"), of_event(Some("o/e"))),
            (format!("rejected/{event}"), of_event(None)),
            (format!("unmarkable/{event}"), of_event(None)),
        ] {
            assert_eq!(Name::of(&asked), name, "{asked}");
        }
        assert!(matches!(
            Name::of("o/e/6747a1000000000000000001"),
            Name::Document { .. }
        ));
        assert_eq!(key_of(&event), Some(HEX));
    }

    #[test]
    fn a_certificate_is_looked_for_by_each_type_that_its_id_may_have() {
        let types = |asked: &str| match Name::of(asked) {
            Name::Certificate { ids, keys } => (ids.len(), keys.len()),
            other => panic!("{other:?}"),
        };
        for (asked, ids) in [
            (HEX, 2),
            ("certificate_expired", 1),
            ("a string", 1),
            ("7", 4),
            ("7.5", 2),
            ("-9000000000", 3),
            ("", 1),
        ] {
            assert_eq!(types(asked), (ids, ids), "{asked}");
        }
        assert_eq!(types("h0123456789abcdef01234567"), (1, 2));
    }
}
