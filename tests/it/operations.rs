//! Operations: documents of `webhook_operations`, as the platform's back office inserts them.

mod back_office;
mod endpoints;
mod hostile;
mod instances;
mod moving;
mod odd_state;
mod refused;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;

use crate::fixture::{Daemon, Fixture, endpoint_key, expired_in_turn, pending_batch};
use crate::layout::{ENDPOINT, ORGANIZATION, batch, dead, expiry, indexes, outbox};

/// An organization with an endpoint that is switched off by a hold, for which that many wait, ten in a batch.
async fn held(fixture: &Fixture, waiting: i64) -> String {
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let batches = expired_in_turn(organization, waiting);
    if waiting > 0 {
        let batches = batches.chunks(10).map(|some| pending_batch(&key, some));
        fixture.outbox().insert_many(batches).await.unwrap();
    }
    let hold = doc! { "by": "a test", "reason": "", "at": Clock::local(), "until": null, "_id": "hold/all" };
    fixture.state().insert_one(hold).await.unwrap();
    key
}

#[tokio::test]
async fn a_document_that_makes_no_sense_is_refused_with_the_reason() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon().await;
    let all = doc! { "all": true };
    let table = [
        (doc! {}, "`kind`: expected one of replay, hold"),
        (doc! { "kind": "hodl" }, "`kind`: expected one of"),
        (doc! { "kind": 7, "selection": &all }, "found Int32"),
        (
            doc! { "kind": "hold" },
            "`selection`: expected all: true, organization or endpoint",
        ),
        (doc! { "kind": "hold", "selection": {} }, "`selection`: expected"),
        (
            doc! { "kind": "hold", "selection": "all" },
            "`selection`: expected a document",
        ),
        (
            doc! { "kind": "hold", "selection": { "al": true } },
            "`selection.al`: no such field here; the nearest: all",
        ),
        (
            doc! { "kind": "hold", "selection": { "organisation": "a" } },
            "the nearest: organization",
        ),
        (
            doc! { "kind": "hold", "selection": { "all": true, "endpoint": "a/b" } },
            "found both",
        ),
        (
            doc! { "kind": "hold", "selection": { "all": "yes" } },
            "`selection.all`: expected true or false",
        ),
        (
            doc! { "kind": "hold", "selection": { "endpoint": "nobody" } },
            "no endpoint",
        ),
        (
            doc! { "kind": "hold", "selection": { "endpoint": { "$ne": 1 } } },
            "`selection.endpoint`: expected an id",
        ),
        (
            doc! { "kind": "hold", "selection": &all, "options": { "until": "soon" } },
            "`options.until`: expected a date",
        ),
        (
            doc! { "kind": "hold", "selection": &all, "option": {} },
            "`option`: no such field here; the nearest: options",
        ),
        (
            doc! { "kind": "release", "selection": &all, "options": { "until": "2026-01-01T00:00:00Z" } },
            "`options.until`: no such field",
        ),
        (
            doc! { "kind": "replay", "selection": {} },
            "`selection`: expected what is meant",
        ),
        (
            doc! { "kind": "replay", "selection": { "states": ["pending"] } },
            "`selection.states`: expected a list of dead",
        ),
        (
            doc! { "kind": "replay", "selection": { "all": true, "states": [] } },
            "`selection.states`",
        ),
        (
            doc! { "kind": "replay", "selection": { "eventType": "certificate" } },
            "`selection.eventType`: expected one of",
        ),
        (
            doc! { "kind": "replay", "selection": &all, "options": { "ratePerSecond": 0 } },
            "`options.ratePerSecond`",
        ),
        (
            doc! { "kind": "replay", "selection": &all, "options": { "ratePerSecond": f64::NAN } },
            "`options.ratePerSecond`",
        ),
        (
            doc! { "kind": "cancel", "selection": { "all": true, "organization": "a" } },
            "found both",
        ),
        (
            doc! { "kind": "cancel", "selection": { "event": "a", "delivery": "b" } },
            "found both",
        ),
        (
            doc! { "kind": "cancel", "selection": &all, "reason": "x".repeat(3_000) },
            "`reason`: expected a text of at most",
        ),
        (
            doc! { "kind": "test", "selection": { "eventType": "certificate_expired" } },
            "an endpoint",
        ),
        (
            doc! { "_id": 7, "kind": "cancel", "selection": &all, "state": "odd", "by": "\u{1b}[31m" },
            "",
        ),
    ];
    for (operation, why) in table {
        let ended = fixture.operate(operation.clone()).await;
        let (state, error) = (
            ended.get_str("state").unwrap(),
            ended.get_str("error").unwrap_or_default(),
        );
        if why.is_empty() {
            assert_eq!(state, "done", "{ended}");
        } else {
            assert_eq!(state, "refused", "{ended}");
            assert!(error.contains(why), "{operation}: {error}");
        }
    }
    assert_eq!(daemon.count(|line| line["level"] == "ERROR"), 0);
}

#[tokio::test]
async fn a_cancellation_ends_what_was_chosen_and_no_more() {
    let fixture = Fixture::new().await;
    let key = held(&fixture, 30).await;
    let (organization, endpoint) = key.split_once('/').unwrap();
    let some = fixture.outbox().find_one(doc! {}).await.unwrap().unwrap();
    let event = |place: usize| {
        let delivery = some.get_array("deliveries").unwrap()[place].as_document().unwrap();
        delivery.get_str("event").unwrap().to_owned()
    };
    let certificate = event(2).split('_').nth(2).unwrap().to_owned();
    let _daemon = fixture.daemon().await;
    let cancel = async |selection: Document| {
        let operation =
            doc! { "kind": "cancel", "selection": selection, "by": "the back office", "reason": "a mistake" };
        let done = fixture.operate(operation).await;
        assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
        let result = done.get_document("result").unwrap().get_i64("deliveries").unwrap();
        assert_eq!(
            done.get_document("progress").unwrap().get_i64("done").ok(),
            Some(result),
            "{done}"
        );
        result
    };
    assert_eq!(cancel(doc! { "event": event(0) }).await, 1);
    assert_eq!(cancel(doc! { "event": event(0) }).await, 0, "done once");
    assert_eq!(cancel(doc! { "delivery": format!("{}/{key}", event(1)) }).await, 1);
    assert_eq!(
        cancel(doc! { "certificate": ObjectId::parse_str(certificate).unwrap() }).await,
        1
    );
    assert_eq!(
        cancel(doc! { "endpoint": "674700000000000000000004/674700000000000000000011" }).await,
        0
    );
    let dry = doc! { "kind": "cancel", "selection": { "organization": organization }, "options": { "dryRun": true } };
    let dry = fixture.operate(dry).await;
    assert_eq!(dry.get_document("result").unwrap(), &doc! { "deliveries": 27_i64 });
    assert_eq!(fixture.count_deliveries(doc! { "state": "pending" }).await, 27);
    let endpoint = ObjectId::parse_str(endpoint).unwrap();
    assert_eq!(
        cancel(doc! { "organization": organization, "endpoint": endpoint }).await,
        27
    );
    let reason = "cancelled by the back office: a mistake";
    let cancelled = doc! { "state": "cancelled", "reason": reason };
    assert_eq!(fixture.outbox().count_documents(cancelled).await.unwrap(), 3);
    let figures = fixture.statistics().find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(figures.get_i64("cancelled").ok(), Some(30));
}

#[tokio::test]
async fn killed_at_each_step_it_is_done_once_and_counted_right() {
    const WAITING: i64 = 2_500;
    for (kind, failpoint) in [
        ("cancel", "step-to-be-committed"),
        ("cancel", "step-committed"),
        ("cancel", "control-raised"),
        ("replay", "step-to-be-committed"),
        ("replay", "step-committed"),
        ("replay", "operation-to-be-finished"),
    ] {
        let fixture = Fixture::new().await;
        held(&fixture, WAITING).await;
        if kind == "replay" {
            let set = doc! { "$set": { "state": "cancelled", "finishedAt": Clock::local() } };
            fixture.outbox().update_many(doc! {}, set).await.unwrap();
        }
        let selection = doc! { "all": true, "states": [if kind == "replay" { "cancelled" } else { "pending" }] };
        let operation = doc! { "kind": kind, "selection": selection };
        let id = fixture.operations().insert_one(operation).await.unwrap().inserted_id;
        let mut command = fixture.command(&["run"]);
        command.env("FAILPOINTS", format!("{failpoint}=return"));
        Daemon::spawn(command).ended().await;
        let _daemon = fixture.daemon().await;
        let done = fixture.ended(&id).await;
        let expected = doc! { "deliveries": WAITING };
        assert_eq!(
            done.get_document("result").ok(),
            Some(&expected),
            "{kind} at {failpoint}: {done}"
        );
        let state = if kind == "replay" { "pending" } else { "cancelled" };
        assert_eq!(fixture.count_deliveries(doc! { "state": state }).await, WAITING as u64);
    }
}

#[tokio::test]
async fn who_asked_may_stop_it() {
    let fixture = Fixture::new().await;
    held(&fixture, 2_500).await;
    let _daemon = fixture.daemon().await;
    // Each ten documents of 100 deliveries take ten seconds.
    let operation = doc! { "kind": "cancel", "selection": { "all": true }, "options": { "ratePerSecond": 10 } };
    let id = fixture.operations().insert_one(operation).await.unwrap().inserted_id;
    let begun = doc! { "_id": &id, "progress.done": { "$gt": 0 } };
    fixture.wait_for_count(&fixture.operations(), begun, 1).await;
    let stop = doc! { "$set": { "cancel": true } };
    fixture
        .operations()
        .update_one(doc! { "_id": &id }, stop)
        .await
        .unwrap();
    let ended = fixture.ended(&id).await;
    assert_eq!(ended.get_str("state").ok(), Some("cancelled"), "{ended}");
    let done = ended.get_document("result").unwrap().get_i64("deliveries").unwrap();
    assert!((100..2_500).contains(&done), "{ended}");
    let left = fixture.count_deliveries(doc! { "state": "pending" }).await;
    assert_eq!(left, 2_500 - u64::try_from(done).unwrap());
}

#[tokio::test]
async fn a_document_of_the_outbox_that_mongodb_refuses_to_change_is_left_out_and_named() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    let documents: Vec<_> = (0..5).map(|n| dead(ENDPOINT, &expiry(n))).collect();
    outbox(&fixture).insert_many(&documents).await.unwrap();
    let refused = documents[2].get_str("_id").unwrap();
    let _daemon = fixture.daemon().await;
    let validator = doc! { "$or": [{ "_id": { "$ne": refused } }, { "state": "dead" }] };
    let modify = doc! { "collMod": "webhook_outbox", "validator": validator };
    fixture.database.run_command(modify).await.unwrap();
    let replay = doc! { "kind": "replay", "selection": { "organization": ORGANIZATION } };
    let done = fixture.operate(replay).await;
    let result = done.get_document("result").unwrap();
    assert_eq!(
        (
            result.get_i64("deliveries").ok(),
            result.get_i64("refusedDocuments").ok()
        ),
        (Some(4), Some(1)),
        "{done}"
    );
    assert!(result.get_str("firstRefused").unwrap().starts_with(refused), "{done}");
}

#[tokio::test]
async fn a_sample_goes_to_an_endpoint() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint("/a");
    fixture.organization(vec![endpoint.clone()]).await;
    let _daemon = fixture.daemon().await;
    let selection = doc! { "endpoint": endpoint.get_object_id("_id").unwrap() };
    let done = fixture.operate(doc! { "kind": "test", "selection": selection }).await;
    let result = done.get_document("result").unwrap();
    assert_eq!(
        (result.get_bool("delivered").ok(), result.get_i32("status").ok()),
        (Some(true), Some(200)),
        "{done}"
    );
    assert_eq!(fixture.receiver.requests()[0].header("x-webhook-test"), "true");
    assert_eq!(fixture.count_deliveries(doc! {}).await, 0);
}

#[tokio::test]
async fn many_operations_take_turns_and_none_waits_for_a_slow_one() {
    let fixture = Fixture::new().await;
    let key = held(&fixture, 1_500).await;
    outbox(&fixture)
        .insert_one(batch(ENDPOINT, &[expiry(1)]))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    let slow = doc! { "kind": "cancel", "selection": { "endpoint": &key }, "options": { "ratePerSecond": 0.1 } };
    fixture.operations().insert_many(vec![slow; 10]).await.unwrap();
    let quick = fixture
        .operate(doc! { "kind": "cancel", "selection": { "endpoint": ENDPOINT } })
        .await;
    assert_eq!(
        quick.get_document("result").ok(),
        Some(&doc! { "deliveries": 1_i64 }),
        "{quick}"
    );
    let audit = doc! { "state": "running", "startedAt": { "$exists": true }, "instance": { "$exists": true }, "at": { "$exists": true } };
    assert_eq!(fixture.operations().count_documents(audit).await.unwrap(), 10);
    let _: Bson = quick.get("at").cloned().unwrap();
}
