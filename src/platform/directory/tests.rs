use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, RawBson, RawBsonRef, RawDocumentBuf, doc};
use tokio::time::advance;

use super::*;
use crate::envelope::EncryptionKeys;
use crate::platform::EndpointPolicy;
use crate::platform::member_config::parse;

mod missing;
mod random;
mod twice;

const EXPIRED: EventType = EventType::CertificateExpired;
const COMPLETED: EventType = EventType::CertificateCompleted;
const POLICY: EndpointPolicy = EndpointPolicy {
    allow_http: false,
    concurrency: 5,
    keys: EncryptionKeys::NONE,
};

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 12])
}

fn counts(served: usize, off: usize, out_of_service: usize) -> EndpointCounts {
    EndpointCounts {
        served,
        off,
        out_of_service,
    }
}

/// An endpoint that wants expiries.
fn endpoint(n: u8) -> Document {
    doc! { "_id": id(n), "name": format!("Hub {n}"), "url": format!("https://hub.example/{n}"), "eventTypes": ["certificate_expired"] }
}

fn with(n: u8, name: &str, value: impl Into<Bson>) -> Document {
    let mut endpoint = endpoint(n);
    endpoint.insert(name, value.into());
    endpoint
}

/// Settings of organization 9.
fn settings(settings: impl Into<Bson>) -> MemberConfig {
    parsed(doc! { "_ownerId": id(9), "webHookConfig": settings.into() })
}

fn endpoints(endpoints: impl IntoIterator<Item = Document>) -> MemberConfig {
    let endpoints: Vec<_> = endpoints.into_iter().collect();
    settings(doc! { "endpoints": endpoints })
}

fn parsed(document: Document) -> MemberConfig {
    parse(&RawDocumentBuf::try_from(&document).unwrap(), &POLICY)
}

fn document(n: u8) -> DocumentId {
    RawBson::from(id(n)).into()
}

fn organization() -> String {
    id(9).to_hex()
}

/// The key of an endpoint of organization 9.
fn key(n: u8) -> EndpointKey {
    EndpointKey::derive(RawBsonRef::ObjectId(id(9)), Some(RawBsonRef::ObjectId(id(n))), "")
}

impl Directory {
    /// With document 1.
    fn of(config: MemberConfig) -> Self {
        let directory = Self::default();
        directory.put(&document(1), config);
        directory
    }

    /// In one word, or the reason why it is out of service.
    fn state(&self, n: u8) -> String {
        match self.find(&key(n)) {
            Found::Served(_) => "served".into(),
            Found::Off { reason } => reason.trim_start_matches("the endpoint was ").into(),
            Found::OutOfService { reason } => reason,
            Found::Email { .. } => panic!("no e-mail"),
        }
    }

    fn wanted(&self) -> Vec<EndpointKey> {
        self.wanting(&organization(), EXPIRED)
    }
}

#[test]
fn what_is_found_and_what_wants_events_agree() {
    let not_https = "`url` is not https";
    let cases = [
        (endpoint(1), "served", true),
        (with(1, "eventTypes", vec!["certificate_completed"]), "served", false),
        (with(1, "enabled", false), "disabled", false),
        (with(1, "url", "ftp://x/"), not_https, true),
        (
            with(1, "enabled", "no"),
            "`enabled` is a string, expected a boolean",
            true,
        ),
        (
            with(1, "eventTypes", 5),
            "`eventTypes` is a number, expected an array of strings",
            false,
        ),
        (endpoint(2), "deleted", false),
    ];
    for (endpoint, state, wants) in cases {
        let directory = Directory::of(endpoints([endpoint]));
        assert_eq!(directory.state(1), state);
        assert_eq!(directory.wanted().contains(&key(1)), wants, "{state}");
    }
}

#[test]
fn expiries_go_to_the_emails_too_while_these_are_on() {
    let directory = Directory::of(endpoints([endpoint(1)]));
    assert_eq!(directory.wanted(), [key(1)]);
    directory.switch_email(true);
    assert_eq!(directory.wanted(), [key(1), EndpointKey::email()]);
    assert_eq!(directory.wanting("nobody", EXPIRED), [EndpointKey::email()]);
    assert!(directory.wanting("nobody", COMPLETED).is_empty());
    assert!(matches!(
        directory.find(&EndpointKey::email()),
        Found::Email { enabled: true }
    ));
}

#[test]
fn an_id_alone_names_the_only_endpoint_that_has_it() {
    let directory = Directory::of(endpoints([endpoint(1)]));
    let hex = |n| id(n).to_hex();
    assert_eq!(directory.key_of(&hex(1)), Ok(key(1)));
    assert!(directory.key_of(&hex(2)).is_err_and(|why| why.contains("no endpoint")));
    assert!(directory.key_of("email").is_err(), "they are off");
    directory.switch_email(true);
    assert_eq!(directory.key_of("email"), Ok(EndpointKey::email()));
    let other = doc! { "_ownerId": id(8), "webHookConfig": { "endpoints": [endpoint(1)] } };
    directory.put(&document(2), parsed(other));
    assert!(directory.key_of(&hex(1)).is_err_and(|why| why.contains("several")));
}

#[test]
fn ids_of_organizations_and_endpoints_match_across_types() {
    let hex = id(0xab).to_hex();
    let same: [[Bson; 3]; 3] = [
        [id(0xab).into(), hex.clone().into(), hex.to_uppercase().into()],
        [7.into(), 7_i64.into(), 7.0.into()],
        [0.into(), (-0.0).into(), 0_i64.into()],
    ];
    for ids in same {
        for (written, asked) in ids.iter().flat_map(|id| ids.iter().map(move |other| (id, other))) {
            let endpoint = with(1, "_id", written.clone());
            let settings = doc! { "_ownerId": written, "webHookConfig": { "endpoints": [endpoint] } };
            let directory = Directory::of(parsed(settings));
            let raw = RawBson::try_from(asked.clone()).unwrap();
            let key = EndpointKey::derive(raw.as_raw_bson_ref(), Some(raw.as_raw_bson_ref()), "");
            assert!(
                matches!(directory.find(&key), Found::Served(_)),
                "{written} and {asked}"
            );
            assert_eq!(
                directory.wanting(key.organization(), EXPIRED),
                std::slice::from_ref(&key)
            );
        }
    }
}

#[test]
fn ids_that_differ_stay_two() {
    let different: [[Bson; 2]; 5] = [
        [id(1).into(), id(2).into()],
        [7.into(), "7".into()],
        [7.into(), 7.5.into()],
        [i64::MAX.into(), 9_223_372_036_854_775_808.0.into()],
        ["a".into(), "A".into()],
    ];
    for [one, other] in different {
        let directory = Directory::of(endpoints([with(1, "_id", one.clone()), with(1, "_id", other.clone())]));
        assert_eq!(directory.wanted().len(), 2, "{one} and {other}");
    }
}

#[test]
fn endpoints_are_counted_by_what_becomes_of_them() {
    let directory = Directory::default();
    directory.put(
        &document(1),
        endpoints([endpoint(1), with(2, "enabled", false), with(3, "url", ""), doc! {}]),
    );
    assert_eq!(directory.count(), counts(1, 1, 2));
    directory.put(&document(2), endpoints([endpoint(4), endpoint(1)]));
    assert_eq!(directory.count(), counts(2, 1, 2), "the double counts once");
    assert_eq!(directory.keys(), [key(1), key(2), key(3), key(4)]);
    assert_eq!(directory.endpoints().len(), 3);
    directory.put(&document(1), settings(5));
    assert_eq!(
        directory.count(),
        counts(2, 1, 2),
        "1 and 4 are served, 3 and the settings are not"
    );
    directory.put(&document(1), endpoints([]));
    directory.put(&document(2), endpoints([]));
    assert_eq!(directory.count(), counts(0, 0, 0));
    assert!(directory.keys().is_empty());
}

#[test]
fn names_are_known_as_long_as_the_endpoint_is() {
    let directory = Directory::of(endpoints([endpoint(1), with(2, "url", 5), with(3, "enabled", false)]));
    assert_eq!(
        [1, 2, 3, 4].map(|n| directory.name(&key(n))),
        ["Hub 1", "Hub 2", "Hub 3", ""]
    );
}

#[test]
fn every_change_is_told_and_nothing_else() {
    let directory = Directory::default();
    let mut changes = directory.subscribe();
    let mut step = |what: &str, told: bool, step: &dyn Fn()| {
        step();
        assert_eq!(changes.has_changed().unwrap(), told, "{what}");
        changes.mark_unchanged();
    };
    let put = |config: &dyn Fn() -> MemberConfig| directory.put(&document(1), config());
    step("a new document", true, &|| put(&|| endpoints([])));
    step("a new endpoint", true, &|| put(&|| endpoints([endpoint(1)])));
    step("the same again", false, &|| put(&|| endpoints([endpoint(1)])));
    step("an unknown field", false, &|| put(&|| endpoints([with(1, "x", 1)])));
    step("a new URL", true, &|| {
        put(&|| endpoints([with(1, "url", "https://x/")]))
    });
    step("switched off", true, &|| {
        put(&|| endpoints([with(1, "enabled", false)]))
    });
    step("unreadable", true, &|| put(&|| settings(5)));
    step("unreadable for the same reason", false, &|| put(&|| settings(6)));
    step("missing", true, &|| {
        directory.remove(&document(1));
    });
    step("missing still", false, &|| {
        directory.remove(&document(1));
    });
    step("e-mails", true, &|| directory.switch_email(true));
    step("e-mails again", false, &|| directory.switch_email(true));
}

/// 27 s for the page's look at each of 40,000 endpoints, when a look-up was linear.
#[test]
fn a_look_up_costs_the_same_in_an_organization_with_40_000_endpoints() {
    let (directory, began) = (Directory::default(), std::time::Instant::now());
    for n in 0..40 {
        let numbers = (0..1000).map(|place| n * 1000 + place);
        let config = endpoints(numbers.map(|id| doc! { "_id": id, "url": "https://hub.example/" }));
        directory.put(&format!("{n}").into(), config);
    }
    println!("40,000 endpoints are known after {:?}", began.elapsed());
    let (keys, began) = (directory.keys(), std::time::Instant::now());
    assert_eq!(keys.len(), 40_000);
    for key in &keys {
        assert!(matches!(directory.find(key), Found::Served(_)));
        assert!(directory.name(key).is_empty() && directory.knows(key));
    }
    let took = began.elapsed();
    println!("each was looked up within {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    let began = std::time::Instant::now();
    for n in 0..5000_u32 {
        let url = format!("https://hub.example/{n}");
        directory.put(&document(1), endpoints([with(1, "url", url)]));
        directory.remove(&document(1));
    }
    let took = began.elapsed();
    println!("10,000 changes took {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_fresh_endpoints_goes_on_with_an_answer_that_comes_late() {
    let seconds = Duration::from_secs;
    let directory = Directory::default();
    let freshness = &directory.0.freshness;
    freshness.set_unavailable();
    let asked = Instant::now();
    let answer = async {
        tokio::time::sleep(seconds(4)).await;
        freshness.follows_since(asked);
    };
    let waiting = directory.up_to_date(std::future::pending(), || ());
    let both = async { tokio::join!(waiting, answer).0 };
    assert!(tokio::time::timeout(seconds(10), both).await.unwrap().is_ok());
}
