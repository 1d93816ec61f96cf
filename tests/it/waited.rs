//! `delivery.wait_for`: what waits for an endpoint that is held, suspended or out of service is a dead letter after that time, and not before.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, LIMIT, endpoint_key, is_scan};
use crate::layout::{self, accepted, after, batch, before, dead, expiry, retry};

const HOUR: Duration = Duration::from_secs(3600);

fn waits(seconds: u64) -> String {
    format!("delivery.wait_for = \"{seconds}s\"\ncompletions.enabled = false")
}

/// Appended two hours ago.
fn old(mut document: Document) -> Document {
    let at = before(Clock::local(), 2 * HOUR);
    document.extend(doc! { "createdAt": at, "due": at });
    document
}

fn events(from: i64, count: i64) -> Vec<String> {
    (from..from + count).map(expiry).collect()
}

/// Everything of that endpoint, or organization, waits.
async fn hold(fixture: &Fixture, what: &str) {
    let hold = doc! { "_id": format!("hold/{what}"), "by": "a test", "until": null };
    fixture.state().insert_one(hold).await.unwrap();
}

fn is_end(line: &Value) -> bool {
    let is_of_waiting = |text: &str| text.contains("delivery.wait_for");
    line["level"] == "ERROR" && line["message"].as_str().is_some_and(is_of_waiting)
}

async fn dead_of(fixture: &Fixture, key: &str) -> Vec<Document> {
    fixture.deliveries(doc! { "state": "dead", "endpoint": key }).await
}

#[tokio::test]
async fn what_waits_too_long_is_a_dead_letter_with_the_reason_and_one_line_per_endpoint() {
    let fixture = Fixture::new().await.with(&waits(3));
    let (held, broken) = (fixture.endpoint("/held"), fixture.endpoint("/broken"));
    let mut wrong = broken.clone();
    wrong.insert("url", "");
    let one = fixture.organization(vec![held.clone()]).await;
    let other = fixture.organization(vec![wrong]).await;
    let (held, broken) = (endpoint_key(one, &held), endpoint_key(other, &broken));
    for (key, from) in [(&held, 0), (&broken, 100)] {
        let mut part = old(batch(key, &events(from, 4)));
        part.extend(doc! { "results": [accepted()], "open": 3 });
        let waiting = [
            part,
            old(batch(key, &events(from + 10, 1))),
            old(retry(key, &expiry(from + 20), 7)),
        ];
        fixture.outbox().insert_many(waiting).await.unwrap();
    }
    hold(&fixture, &format!("organization/{one}")).await;
    let daemon = fixture.daemon().await;

    daemon.wait_for_nth(is_end, 2).await;
    for (key, why) in [(&held, "held"), (&broken, "out of service")] {
        let reason = format!("waited 3s for an endpoint that is {why}");
        let of_key = |line: &Value| {
            is_end(line)
                && format!(
                    "{}/{}",
                    line["organization"].as_str().unwrap(),
                    line["endpoint"].as_str().unwrap()
                ) == **key
        };
        assert_eq!(daemon.count(of_key), 1, "{key}");
        let line = daemon.wait_for(of_key).await;
        assert_eq!(
            (&line["deliveries"], &line["reason"]),
            (&5.into(), &reason.as_str().into())
        );
        let letters = dead_of(&fixture, key).await;
        assert_eq!(letters.len(), 5, "{key}");
        for letter in &letters {
            assert_eq!(letter.get_str("reason").unwrap(), reason);
            assert!(!letter.get_bool("redrivable").unwrap());
            assert_eq!(letter.get("deadSince"), letter.get("finishedAt"));
        }
        let attempts: i32 = letters.iter().map(|letter| letter.get_i32("attempts").unwrap()).sum();
        assert_eq!(attempts, 7, "nothing was attempted");
        let figures = doc! { "dead": 5_i64, "_id": { "$regex": format!("^{key}/") } };
        fixture.wait_for_count(&fixture.statistics(), figures, 1).await;
    }
    assert_eq!(fixture.count_deliveries(doc! { "state": "pending" }).await, 0);
    assert_eq!(
        fixture.count_deliveries(doc! { "state": "delivered" }).await,
        2,
        "as before"
    );
    assert_eq!(fixture.receiver.total(), 0);

    // Replayable, as every dead letter.
    let released = fixture.outcome(&["release", "--organization", &one.to_hex()]).await;
    assert_eq!(released.code, Some(0), "{released:?}");
    let mended = doc! { "$set": { "webHookConfig.endpoints.0.url": fixture.receiver.url("/broken") } };
    fixture
        .member_configs()
        .update_one(doc! { "_ownerId": other }, mended)
        .await
        .unwrap();
    for organization in [one, other] {
        let replayed = fixture
            .outcome(&["replay", "--organization", &organization.to_hex()])
            .await;
        assert_eq!(replayed.code, Some(0), "{replayed:?}");
    }
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 12).await;
    let received = fixture.receiver.requests();
    assert_eq!(received.len(), 10);
    assert!(received.iter().all(|one| one.header("x-webhook-replay") == "true"));
}

#[tokio::test]
async fn nothing_is_ended_before_its_time_nor_what_does_not_wait() {
    let fixture = Fixture::new().await.with(&waits(2));
    let (held, served) = (fixture.endpoint("/held"), fixture.endpoint("/served"));
    let organization = fixture.organization(vec![held.clone(), served.clone()]).await;
    let (held, served) = (endpoint_key(organization, &held), endpoint_key(organization, &served));
    let soon = after(Clock::local(), HOUR);
    let mut appended_later = batch(&held, &events(1, 2));
    appended_later.insert("createdAt", soon);
    let mut due_later = old(retry(&held, &expiry(5), 3));
    due_later.insert("due", soon);
    let mut retried_later = old(retry(&served, &expiry(7), 3));
    retried_later.insert("due", soon);
    let letter = dead(&held, &expiry(8));
    let waiting = [
        appended_later,
        due_later,
        retried_later,
        letter,
        old(batch(&held, &events(10, 1))),
    ];
    fixture.outbox().insert_many(waiting).await.unwrap();
    // As if it had been held long ago.
    let waited = doc! { "_id": format!("endpoint/{served}"), "waitingSince": before(Clock::local(), 2 * HOUR) };
    fixture.state().insert_one(waited).await.unwrap();
    hold(&fixture, &format!("endpoint/{held}")).await;
    let daemon = fixture.daemon().await;

    daemon.wait_for(is_end).await;
    let state = fixture
        .state()
        .find_one(doc! { "_id": format!("endpoint/{held}") })
        .await
        .unwrap()
        .unwrap();
    let since: DateTime = *state.get_datetime("waitingSince").unwrap();
    let ended = fixture.deliveries(doc! { "event": expiry(10) }).await.remove(0);
    assert!(
        *ended.get_datetime("finishedAt").unwrap() >= after(since, Duration::from_secs(2)),
        "{ended}"
    );
    // Another round.
    fixture
        .outbox()
        .insert_one(old(batch(&held, &events(20, 1))))
        .await
        .unwrap();
    daemon.wait_for_nth(is_end, 2).await;
    let mut left = fixture.deliveries(doc! { "state": "pending" }).await;
    left.sort_by_key(|one| one.get_str("event").unwrap().to_owned());
    let left: Vec<_> = left.iter().map(|one| one.get_str("event").unwrap()).collect();
    assert_eq!(left, [expiry(1), expiry(2), expiry(5), expiry(7)]);
    let before = fixture.deliveries(doc! { "event": expiry(8) }).await.remove(0);
    assert_eq!(
        before.get_str("reason").unwrap(),
        "100 attempts failed",
        "a dead letter from before"
    );
}

#[tokio::test]
async fn a_document_that_mongodb_refuses_to_change_waits_on_and_the_others_do_not() {
    for refused in [expiry(3), expiry(11)] {
        let fixture = Fixture::new().await.with(&waits(1));
        let held = fixture.endpoint("/held");
        let organization = fixture.organization(vec![held.clone()]).await;
        let held = endpoint_key(organization, &held);
        layout::indexes(&fixture).await;
        let validator = doc! { "$or": [{ "state": { "$nin": ["dead", "delivered"] } }, { "deliveries.event": { "$ne": &refused } }] };
        fixture
            .database
            .run_command(doc! { "collMod": "webhook_outbox", "validator": validator })
            .await
            .unwrap();
        let mut waiting = vec![old(batch(&held, &events(1, 5)))];
        waiting.extend((10..15).map(|n| old(batch(&held, &events(n, 1)))));
        fixture.outbox().insert_many(waiting).await.unwrap();
        hold(&fixture, "all").await;
        let daemon = fixture.daemon().await;
        let line = daemon.wait_for(is_end).await;
        let ended = if refused == expiry(3) { 5 } else { 9 };
        assert_eq!(line["deliveries"], ended, "{refused}");
        assert_eq!(fixture.count_deliveries(doc! { "state": "pending" }).await, 10 - ended);
        let is_refusal =
            |line: &Value| line["level"] == "ERROR" && line["message"].as_str().unwrap().contains("is left alone for");
        assert_eq!(daemon.count(is_refusal), 1, "{refused}");
    }
}

#[tokio::test]
async fn a_batch_of_which_a_delivery_can_not_be_read_waits_on_and_the_others_do_not() {
    let fixture = Fixture::new().await.with(&waits(1));
    let held = fixture.endpoint("/held");
    let organization = fixture.organization(vec![held.clone()]).await;
    let held = endpoint_key(organization, &held);
    layout::indexes(&fixture).await;
    let mut waiting: Vec<_> = [1, 11, 21].map(|from| old(batch(&held, &events(from, 3)))).into();
    for (document, odd) in waiting.iter_mut().zip([Bson::from("text"), doc! { "event": 7 }.into()]) {
        document.get_array_mut("deliveries").unwrap()[1] = odd;
    }
    fixture.outbox().insert_many(waiting).await.unwrap();
    hold(&fixture, "all").await;
    let daemon = fixture.daemon().await;
    assert_eq!(daemon.wait_for(is_end).await["deliveries"], 3);
    let untouched = doc! { "state": "pending", "open": 3, "results": [] };
    assert_eq!(fixture.outbox().count_documents(untouched).await.unwrap(), 2);
    let dead = doc! { "state": "dead", "endpoint": held };
    assert_eq!(fixture.outbox().count_documents(dead).await.unwrap(), 3);
}

#[tokio::test]
async fn killed_between_two_steps_another_start_ends_the_rest_and_each_counts_once() {
    let fixture = Fixture::new().await.with(&waits(1));
    let held = fixture.endpoint("/held");
    let organization = fixture.organization(vec![held.clone()]).await;
    let held = endpoint_key(organization, &held);
    let mut waiting: Vec<_> = (0..3).map(|n| old(batch(&held, &events(n * 10, 7)))).collect();
    waiting.extend((100..350).map(|n| old(batch(&held, &events(n, 1)))));
    fixture.outbox().insert_many(waiting).await.unwrap();
    hold(&fixture, &format!("endpoint/{held}")).await;
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "waiting-ended=return");
    Daemon::spawn(command).ended().await;
    let ended = fixture.count_deliveries(doc! { "state": "dead" }).await;
    assert!((1..271).contains(&ended), "{ended}");
    let daemon = fixture.daemon().await;
    let line = daemon.wait_for(is_end).await;
    assert_eq!(line["deliveries"], 271 - ended);
    assert_eq!(fixture.count_deliveries(doc! { "state": "dead" }).await, 271);
    fixture
        .wait_for_count(&fixture.statistics(), doc! { "dead": 271_i64 }, 1)
        .await;
}

#[tokio::test]
async fn a_reload_changes_for_how_long() {
    let fixture = Fixture::new().await.with(&waits(90));
    let held = fixture.endpoint("/held");
    let organization = fixture.organization(vec![held.clone()]).await;
    fixture
        .outbox()
        .insert_one(old(batch(&endpoint_key(organization, &held), &events(0, 1))))
        .await
        .unwrap();
    hold(&fixture, "all").await;
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    fixture.configure(&waits(1));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(is_end).await;
}

#[tokio::test]
async fn of_two_instances_only_the_one_that_the_endpoint_is_assigned_to_ends_it() {
    let fixture = Fixture::new().await.with(&waits(3));
    let endpoints: Vec<_> = (0..8).map(|n| fixture.endpoint(&format!("/{n}"))).collect();
    let organization = fixture.organization(endpoints.clone()).await;
    for (n, endpoint) in (0..).zip(&endpoints) {
        let waiting = (0..5).map(|i| old(batch(&endpoint_key(organization, endpoint), &events(n * 10 + i, 1))));
        fixture.outbox().insert_many(waiting).await.unwrap();
    }
    hold(&fixture, "all").await;
    let (one, other) = (fixture.daemon().await, fixture.daemon().await);
    fixture.wait_for_deliveries(doc! { "state": "dead" }, 40).await;
    fixture
        .wait_for_count(&fixture.statistics(), doc! { "dead": 5_i64 }, 8)
        .await;
    let both = async {
        while one.count(is_end) + other.count(is_end) < 8 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, both).await.unwrap();
    assert_eq!(one.count(is_end) + other.count(is_end), 8);
}

/// However much waits beside it.
#[tokio::test]
async fn the_index_leads_to_what_waits_too_long() {
    let fixture = Fixture::new().await.with(&waits(1));
    let (held, other) = (fixture.endpoint("/held"), ObjectId::new());
    let organization = fixture.organization(vec![held.clone()]).await;
    let held = endpoint_key(organization, &held);
    let mut waiting: Vec<_> = (0..1_000)
        .map(|n| retry(&format!("{other}/{other}"), &expiry(n), 1))
        .collect();
    waiting.push(old(batch(&held, &events(2_000, 1))));
    fixture.outbox().insert_many(waiting).await.unwrap();
    hold(&fixture, "all").await;
    let queries =
        doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()), "command.filter.due": { "$exists": true } };
    fixture.profile(&queries).await;
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_end).await;
    let asked = fixture.profiled(&queries).await;
    assert!(!asked.is_empty());
    for one in asked {
        assert!(one.get_i32("docsExamined").unwrap() <= 1, "{one}");
        assert!(one.get_i32("keysExamined").unwrap() <= 5, "{one}");
    }
}
