//! Documents of any shape, through the real daemon: each certificate is delivered or recorded as rejected, each endpoint works or is
//! out of service, and none harms another.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, completed_id, expired, expired_id, heard, is_scan};

const COUNT: usize = 300;

fn scalar() -> impl Strategy<Value = Bson> {
    prop_oneof![
        Just(Bson::Null),
        Just(Bson::Undefined),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        any::<bool>().prop_map(Bson::from),
        any::<i32>().prop_map(Bson::from),
        any::<i64>().prop_map(Bson::from),
        any::<f64>().prop_map(Bson::from),
        any::<i64>().prop_map(|millis| DateTime::from_millis(millis).into()),
        any::<[u8; 12]>().prop_map(|bytes| ObjectId::from_bytes(bytes).into()),
        any::<[u8; 16]>().prop_map(|bytes| bson::Decimal128::from_bytes(bytes).into()),
        any::<String>().prop_map(Bson::from),
        any::<String>().prop_map(|text| Bson::JavaScriptCode(text.replace('\0', ""))),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes,
        }
        .into()),
        (0_usize..1 << 20).prop_map(|length| "\u{2028}\u{1}\"".repeat(length / 5).into()),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "(__proto__|constructor|toJSON|\\$where|\\$set|a\\.b|\\.|\\$|[0-9]{1,10})?",
        "\\PC{0,8}"
    ]
}

fn any_value() -> impl Strategy<Value = Bson> {
    scalar().prop_recursive(4, 30, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Bson::Array),
            prop::collection::vec((key(), inner), 0..6).prop_map(|fields| Document::from_iter(fields).into()),
        ]
    })
}

/// As deep as MongoDB allows, or nearly.
fn deep() -> impl Strategy<Value = Bson> {
    (1_usize..90, any::<bool>()).prop_map(|(depth, arrays)| {
        (0..depth).fold(Bson::Null, |inner, _| match arrays {
            true => Bson::Array(vec![inner]),
            false => doc! { "d": inner }.into(),
        })
    })
}

/// What an instant or a flag may be instead.
fn odd() -> impl Strategy<Value = Bson> {
    scalar().prop_filter("says that there is none", |value| {
        !matches!(
            value,
            Bson::Null | Bson::Undefined | Bson::DateTime(_) | Bson::Boolean(_)
        )
    })
}

/// A certificate that has expired, with anything in the fields that matter and around them.
fn any_certificate(organization: ObjectId) -> impl Strategy<Value = Document> {
    let payload = "(_userId|_badgeId|disabled|_lessonActiveIds|ruleData|createdAt|updatedAt|__v)";
    let payload = prop_oneof![payload.prop_map(|field| field), key()];
    let id = any_value().prop_filter("no _id", |id| !matches!(id, Bson::Array(_) | Bson::Undefined));
    let odds = (
        prop::option::weighted(0.2, id),
        prop::option::weighted(0.1, odd()),
        prop::option::weighted(0.1, odd()),
        prop::option::weighted(0.1, any_value()),
        prop::option::weighted(0.1, Just(Bson::Null)),
    );
    let fields = prop::collection::vec((payload, prop_oneof![4 => any_value(), 1 => deep()]), 0..6);
    (odds, fields).prop_map(move |((id, expires, flag, awarded, nobody), fields)| {
        let mut certificate = expired(organization);
        certificate.extend(fields.into_iter().filter(|(field, _)| !matters(field)));
        let named = [
            ("_id", id),
            ("expires", expires),
            ("expiryReminderSent", flag),
            ("creationDate", awarded),
            ("_ownerId", nobody),
        ];
        certificate.extend(
            named
                .into_iter()
                .filter_map(|(field, value)| Some((field.to_owned(), value?))),
        );
        certificate
    })
}

fn matters(field: &str) -> bool {
    ["_id", "expires", "expiryReminderSent", "creationDate", "_ownerId"].contains(&field)
}

/// Always the same ones.
fn generate<T: std::fmt::Debug>(count: usize, strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect()
}

fn panics(daemon: &Daemon) -> Vec<Value> {
    daemon.lines().into_iter().filter(Value::is_string).collect()
}

#[tokio::test]
async fn three_hundred_certificates_of_any_shape_are_each_delivered_or_rejected_and_harm_no_other() {
    let fixture = Fixture::new().await.odd();
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    // What MongoDB itself refuses never gets to the daemon.
    let (good, mut inserted) = (expired(organization), 1);
    for certificate in generate(COUNT, any_certificate(organization)) {
        inserted += u64::from(fixture.badge_users().insert_one(certificate).await.is_ok());
    }
    fixture.badge_users().insert_one(&good).await.unwrap();
    println!("{inserted} of {COUNT} and one");
    assert!(inserted > COUNT as u64 * 9 / 10);

    for event_type in ["certificate_completed", "certificate_expired"] {
        let told = doc! { "type": event_type, "state": { "$in": ["delivered", "rejected"] } };
        if event_type == "certificate_expired" {
            daemon.signal(Signal::SIGUSR1);
        }
        fixture.wait_for_deliveries(told, inserted).await;
    }
    let marked = doc! { "expiryReminderSent": true };
    assert_eq!(fixture.badge_users().count_documents(marked).await.unwrap(), inserted);
    let heard = heard(&fixture.receiver.requests());
    for id in [completed_id(&good), expired_id(&good)] {
        assert!(heard.contains_key(&("/a".to_owned(), id)));
    }

    // The one that found the last of them may still be running.
    let mut report = Value::Null;
    for _ in 0..2 {
        let scans = daemon.count(is_scan);
        daemon.signal(Signal::SIGUSR1);
        report = daemon.wait_for_nth(is_scan, scans + 1).await;
    }
    assert_eq!(report["found"], 0, "what was rejected does not come again");
    assert!(daemon.stop().await.success());
    assert_eq!(panics(&daemon), [Value::Null; 0]);
}

/// None that leads anywhere but to this machine.
fn any_url(good: String) -> impl Strategy<Value = Bson> {
    let odd = "(https|http|ftp)://(a:b@)?(127\\.0\\.0\\.1|\\[::1\\]|0x7f\\.1|)(:[019]{1,5})?/\\PC{0,5}#?";
    prop_oneof![3 => Just(Bson::from(good)), 1 => odd.prop_map(Bson::from), 1 => any_value()]
}

/// An endpoint with any number of fields replaced by anything, or no endpoint at all.
fn any_endpoint(good: Document) -> impl Strategy<Value = Bson> {
    let auth = "(authType|token|username|password|key|header|clientId|clientSecret)";
    let kind = "(none|bearer_token|basic_auth|api_key|oauth2_client_credentials)".prop_map(Bson::from);
    let auth = prop::collection::vec((auth, prop_oneof![kind, any_value()]), 0..5);
    let field = "(_id|name|enabled|eventTypes|timeout|headers|signingSecrets)";
    let value = prop_oneof![3 => any_value(), 1 => auth.prop_map(|fields| Document::from_iter(fields).into())];
    let fields = prop::collection::vec((prop_oneof![3 => field, 1 => "auth"], value), 0..4);
    let url = any_url(good.get_str("url").unwrap().to_owned());
    let endpoint = (url, fields).prop_map(move |(url, fields)| {
        let mut endpoint = good.clone();
        endpoint.insert("_id", ObjectId::new());
        endpoint.insert("url", url);
        endpoint.extend(fields);
        endpoint.into()
    });
    prop_oneof![6 => endpoint, 1 => any_value()]
}

fn any_config(good: Document) -> impl Strategy<Value = Document> {
    let organization = any_value().prop_filter("nobody", |organization| {
        !matches!(organization, Bson::Null | Bson::Undefined)
    });
    let endpoints = prop::collection::vec(any_endpoint(good), 0..4).prop_map(Bson::Array);
    (organization, prop_oneof![8 => endpoints, 1 => any_value()]).prop_map(
        |(organization, endpoints)| doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } },
    )
}

#[tokio::test]
async fn endpoints_of_any_shape_work_or_are_out_of_service_and_harm_no_other() {
    let fixture = Fixture::new().await.odd().with("service.shutdown_grace = \"0s\"");
    let organization = fixture.organization(vec![fixture.endpoint("/good")]).await;
    let mut daemon = fixture.daemon().await;
    let (mut configured, mut certificates) = (0, vec![expired(organization)]);
    for config in generate(COUNT, any_config(fixture.endpoint("/any"))) {
        if fixture.member_configs().insert_one(&config).await.is_ok() {
            configured += 1;
            certificates.push(expired(organization));
            certificates
                .last_mut()
                .unwrap()
                .insert("_ownerId", config.get("_ownerId"));
        }
    }
    assert!(configured > COUNT * 9 / 10, "{configured}");
    let last = fixture.organization(vec![fixture.endpoint("/last")]).await;
    daemon
        .wait_for(|line| line["message"] == "endpoints read" && line["organization"] == last.to_hex())
        .await;
    fixture.badge_users().insert_many(&certificates).await.unwrap();
    fixture.badge_users().insert_one(expired(last)).await.unwrap();
    fixture
        .wait_for(|requests| requests.iter().any(|request| request.path == "/last"))
        .await;

    daemon.signal(Signal::SIGUSR1);
    let report = daemon.wait_for(|line| is_scan(line) && line["found"] != 0).await;
    assert_eq!(
        (&report["found"], &report["rejected"]),
        (&(configured + 2).into(), &0.into())
    );
    fixture
        .wait_for(|requests| requests.iter().filter(|request| request.path == "/good").count() == 2)
        .await;
    assert!(
        fixture.receiver.count("/any") > configured / 2,
        "{}",
        fixture.receiver.count("/any")
    );
    assert!(daemon.stop().await.success());
    assert_eq!(panics(&daemon), [Value::Null; 0]);
}
