//! `certhookd show`: what is known of a certificate, an event or a delivery, and why there is nothing where there is nothing.

mod documents;
mod odd_ids;

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use futures_util::future::join_all;
use serde_json::Value;

use crate::fixture::{Fixture, Outcome, certificate, completed_id, expired, expired_id};
use crate::layout::{
    ENDPOINT, ORGANIZATION, after, batch, before, delivered, expiry, id, indexes, moved, outbox, rejected, retry,
};

const NOT_BEFORE: &str = "scan.not_before = \"2020-01-01T00:00:00Z\"";
const HOUR: Duration = Duration::from_secs(3600);

async fn show(fixture: &Fixture, asked: &str) -> Value {
    show_all(fixture, &[asked]).await.remove(0)
}

async fn show_all(fixture: &Fixture, asked: &[&str]) -> Vec<Value> {
    // Each command writes the configuration: they begin when all have.
    let commands: Vec<_> = asked
        .iter()
        .map(|asked| fixture.command(&["show", "--json", asked]))
        .collect();
    let outcomes = join_all(commands.into_iter().map(Outcome::of)).await;
    let shown = |(outcome, asked): (Outcome, &&str)| {
        assert_eq!(outcome.code, Some(0), "{asked}: {outcome:?}");
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    outcomes.into_iter().zip(asked).map(shown).collect()
}

fn codes(shown: &Value) -> Vec<&str> {
    let notes = shown["notes"].as_array().unwrap();
    notes.iter().map(|note| note["code"].as_str().unwrap()).collect()
}

/// The only delivery.
fn only(shown: &Value) -> &Value {
    let events = shown["events"].as_array().unwrap();
    let deliveries = events[0]["deliveries"].as_array().unwrap();
    assert_eq!((events.len(), deliveries.len()), (1, 1), "{shown:#}");
    &deliveries[0]
}

/// The organization of the layout with these endpoints, by the last two digits of their ids.
async fn configure(fixture: &Fixture, endpoints: &[(&str, Document)]) {
    let endpoints = endpoints.iter().map(|(digits, change)| {
        let mut endpoint = fixture.endpoint("/a");
        endpoint.insert(
            "_id",
            ObjectId::parse_str(format!("6747000000000000000000{digits}")).unwrap(),
        );
        endpoint.extend(change.clone());
        endpoint
    });
    let endpoints: Vec<_> = endpoints.collect();
    let config =
        doc! { "_ownerId": ObjectId::parse_str(ORGANIZATION).unwrap(), "webHookConfig": { "endpoints": endpoints } };
    fixture.member_configs().insert_one(config).await.unwrap();
}

/// A certificate of the layout's organization.
fn changed(mut document: Document, change: Document) -> Document {
    document.insert("_ownerId", ObjectId::parse_str(ORGANIZATION).unwrap());
    document.extend(change);
    document
}

/// A note of an event of that certificate.
fn noted(kind: &str, event: &str) -> Document {
    let mut note = rejected(event);
    note.insert("_id", format!("{kind}/{event}"));
    if kind == "unmarkable" {
        note.remove("finishedAt");
    }
    note
}

#[tokio::test]
async fn each_reason_for_nothing_is_said() {
    let fixture = Fixture::new().await.with(NOT_BEFORE);
    indexes(&fixture).await;
    configure(&fixture, &[("10", doc! {})]).await;
    let own = ObjectId::new();
    let (now, old) = (Clock::local(), DateTime::from_millis(1_500_000_000_000));
    let alive = || certificate(own, Some(after(now, HOUR)));
    let rejected_one = changed(expired(own), doc! { "expiryReminderSent": true });
    let unmarkable = changed(expired(own), doc! {});
    let renewed = changed(alive(), doc! {});
    let told = format!(
        "certificate_expired_{}_{}",
        renewed.get_object_id("_id").unwrap(),
        old.timestamp_millis()
    );
    let documents = [
        noted("rejected", &expired_id(&rejected_one)),
        noted("unmarkable", &expired_id(&unmarkable)),
        delivered(batch(ENDPOINT, std::slice::from_ref(&told))),
        delivered(batch(ENDPOINT, &[expired_id(&unmarkable)])),
    ];
    outbox(&fixture).insert_many(documents).await.unwrap();
    let table = [
        (changed(alive(), doc! {}), &["award_before_start", "not_expired"][..]),
        (
            changed(alive(), doc! { "expires": Bson::Null }),
            &["award_before_start", "never_expires"],
        ),
        (
            changed(alive(), doc! { "expires": "soon" }),
            &["award_before_start", "odd_expires"],
        ),
        (
            changed(alive(), doc! { "expiryReminderSent": true }),
            &["award_before_start", "marked_before_expiry"],
        ),
        (changed(expired(own), doc! {}), &["award_before_start", "next_scan"]),
        (
            changed(expired(own), doc! { "expires": old }),
            &["award_before_start", "before_not_before"],
        ),
        (
            changed(expired(own), doc! { "expiryReminderSent": true }),
            &["award_before_start", "marked_not_sent"],
        ),
        (
            changed(expired(own), doc! { "expiryReminderSent": "no" }),
            &["award_before_start", "odd_flag"],
        ),
        (
            changed(expired(own), doc! { "disabled": true }),
            &["disabled", "award_before_start", "next_scan"],
        ),
        (
            changed(alive(), doc! { "creationDate": Bson::Null }),
            &["not_awarded", "not_expired"],
        ),
        (
            changed(alive(), doc! { "creationDate": 7 }),
            &["odd_creation_date", "not_expired"],
        ),
        (
            changed(alive(), doc! { "_ownerId": ObjectId::new() }),
            &["unconfigured", "award_before_start", "not_expired"],
        ),
        (
            changed(expired(own), doc! { "_ownerId": Bson::Null }),
            &["no_organization", "unfit"],
        ),
        (
            changed(alive(), doc! { "_id": "a \u{1b}string" }),
            &["award_before_start", "not_expired"],
        ),
        (
            changed(alive(), doc! { "_id": 7_i64 }),
            &["award_before_start", "not_expired"],
        ),
        (rejected_one, &["rejected", "award_before_start"]),
        (unmarkable, &["unmarkable", "award_before_start"]),
        (renewed, &["award_before_start", "renewed", "not_expired"]),
    ];
    fixture
        .badge_users()
        .insert_many(table.iter().map(|(document, _)| document))
        .await
        .unwrap();
    let names = table.iter().map(|(document, _)| match document.get("_id").unwrap() {
        Bson::String(text) => text.clone(),
        other => other
            .to_string()
            .trim_matches(|c| c == '"')
            .replace("ObjectId(\"", "")
            .replace("\")", ""),
    });
    let names: Vec<_> = names.collect();
    let all = show_all(&fixture, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for ((shown, name), (document, expected)) in all.iter().zip(&names).zip(&table) {
        assert_eq!(codes(shown), *expected, "{name}: {document}\n{shown:#}");
        assert!(!shown["certificate"].is_null(), "{shown:#}");
    }
    for (row, text) in [
        (4, &*format!("now certificate_expired would go to {ENDPOINT}")),
        (6, &*format!("now certificate_expired would go to {ENDPOINT}")),
        (0, &*format!("now certificate_completed would go to {ENDPOINT}")),
        (15, "`_ownerId` is missing"),
    ] {
        let notes = all[row]["notes"].to_string();
        assert!(notes.contains(text), "{notes}");
    }
    let text = fixture.outcome(&["show", "a \u{1b}string"]).await.stdout;
    assert!(text.contains(r"certificate  a \u{1b}string  organization"), "{text}");
}

#[tokio::test]
async fn an_award_that_is_not_found_yet_is_told_from_one_of_which_nothing_is_kept() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    configure(&fixture, &[("10", doc! { "eventTypes": ["certificate_expired"] })]).await;
    let one = changed(certificate(ObjectId::new(), None), doc! {});
    let asked = one.get_object_id("_id").unwrap().to_hex();
    fixture.badge_users().insert_one(&one).await.unwrap();
    let awarded = *one.get_datetime("creationDate").unwrap();
    for (moved, code) in [
        (before(awarded, HOUR), "award_ahead"),
        (after(awarded, HOUR), "award_not_sent"),
    ] {
        let watch = doc! { "$set": { "at": moved } };
        fixture
            .state()
            .update_one(doc! { "_id": "watch" }, watch)
            .upsert(true)
            .await
            .unwrap();
        let shown = show(&fixture, &asked).await;
        assert_eq!(codes(&shown)[0], code);
        let text = shown["notes"][0]["text"].as_str().unwrap();
        assert!(text.ends_with("no endpoint wants certificate_completed now"), "{text}");
    }
    let lease = doc! { "$set": { "watchedSince": after(awarded, HOUR) } };
    let state = fixture.state();
    state
        .update_one(doc! { "_id": "lease/source" }, lease)
        .upsert(true)
        .await
        .unwrap();
    let shown = show(&fixture, &asked).await;
    assert_eq!(codes(&shown)[0], "award_before_start", "{shown:#}");
    let fixture = fixture.with("completions.enabled = false");
    assert_eq!(codes(&show(&fixture, &asked).await)[0], "awards_off");
    // By the event that it would have been.
    assert_eq!(codes(&show(&fixture, &completed_id(&one)).await)[0], "awards_off");
}

#[tokio::test]
async fn what_nobody_knows_is_exit_1_with_the_reason() {
    let fixture = Fixture::new().await;
    let asked = [
        "674700000000000000000001",
        &expiry(1),
        &format!("{}/{ENDPOINT}", expiry(1)),
        &format!("{ENDPOINT}/x"),
        "",
        "-1",
        "é/\u{1b}",
    ];
    // Before the first start, and after it.
    for _ in 0..2 {
        for outcome in join_all(
            asked
                .iter()
                .map(|asked| fixture.command(&["show", "--json", "--", asked]))
                .map(Outcome::of),
        )
        .await
        {
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            let error = outcome.errors()[0];
            assert!(error.contains("there is no") && !error.contains('\u{1b}'), "{error}");
            let shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert_eq!(codes(&shown), ["unknown"]);
        }
        indexes(&fixture).await;
    }
    outbox(&fixture)
        .insert_one(batch(ENDPOINT, &[expiry(12)]))
        .await
        .unwrap();
    let outcome = fixture.outcome(&["show", &expiry(11)]).await;
    assert!(
        outcome.errors()[0].ends_with(&format!("the nearest: {}", expiry(12))),
        "{outcome:?}"
    );
}

/// A batch with one delivery that left it, died and was sent again; one that arrived; and one of another event's.
#[tokio::test]
async fn a_delivery_is_told_as_one_wherever_it_is_and_whatever_it_is_called() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    configure(&fixture, &[("10", doc! {})]).await;
    let [one, two] = [expiry(1), expiry(2)];
    let mut left = delivered(batch(ENDPOINT, &[one.clone(), two.clone()]));
    left.insert(
        "results",
        [
            Bson::from(moved()),
            doc! { "at": Clock::local(), "status": 204, "ms": 7 }.into(),
        ],
    );
    let mut own = retry(ENDPOINT, &one, 2);
    let replay = doc! { "at": Clock::local(), "state": "dead", "attempts": 100, "reason": "100 attempts failed" };
    own.insert("replays", [replay]);
    let elsewhere = batch(
        "674700000000000000000004/674700000000000000000011",
        std::slice::from_ref(&one),
    );
    outbox(&fixture).insert_many([&left, &own, &elsewhere]).await.unwrap();

    let certificate = one.split('_').nth(2).unwrap();
    let delivery = format!("{one}/{ENDPOINT}");
    for (asked, endpoints) in [(certificate, 2), (&one, 2), (&delivery, 1), (id(&own), 1)] {
        let shown = show(&fixture, asked).await;
        let deliveries = shown["events"][0]["deliveries"].as_array().unwrap();
        assert_eq!(
            (shown["events"].as_array().unwrap().len(), deliveries.len()),
            (1, endpoints),
            "{asked}: {shown:#}"
        );
        let told = deliveries.iter().find(|told| told["delivery"] == *delivery).unwrap();
        assert_eq!(
            (&told["state"], &told["attempts"], &told["document"]),
            (&"pending".into(), &2.into(), &id(&own).into())
        );
        assert_eq!(told["history"].as_array().unwrap().len(), 2, "{told:#}");
        assert_eq!(
            (&told["history"][0]["status"], &told["history"][0]["n"]),
            (&503.into(), &1.into())
        );
        assert_eq!(
            (&told["replays"][0]["state"], &told["replays"][0]["attempts"]),
            (&"dead".into(), &100.into())
        );
    }
    let whole = show(&fixture, id(&left)).await;
    let states: Vec<_> = whole["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["deliveries"][0]["state"])
        .collect();
    assert_eq!(states, ["pending", "delivered"], "{whole:#}");
    let arrived = only(&show(&fixture, &two).await).clone();
    assert_eq!(
        (
            &arrived["attempts"],
            &arrived["history"][0]["status"],
            &arrived["history"][0]["ms"]
        ),
        (&1.into(), &204.into(), &7.into())
    );

    let nobody = show(&fixture, &format!("{one}/{ORGANIZATION}/674700000000000000000077")).await;
    assert!(codes(&nobody).contains(&"not_for_endpoint"), "{nobody:#}");
    let text = fixture.outcome(&["show", &delivery]).await.stdout;
    for line in [
        format!("event        {one}  happened 2025-11-27T"),
        format!("  endpoint   {ENDPOINT}  /a"),
        "attempt 1: status 503 (12 ms, by 5b0c1f6e9a42)".into(),
        "replayed; it was dead after 100 attempts: 100 attempts failed".into(),
        "    next     attempt 3 at ".into(),
    ] {
        assert!(text.contains(&line), "no {line} in {text}");
    }
}
