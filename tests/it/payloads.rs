//! `delivery.payload_retention`: payloads and bodies of responses go before the deliveries that they belong to.

use std::time::Duration;

use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use futures_util::future::join_all;

use crate::fixture::{Daemon, Fixture};
use crate::layout::{
    ENDPOINT, accepted, award, batch, before, cancelled, dead, delivered, expiry, find, id, indexes, outbox, rejected,
    retry,
};

/// Looks each second.
const LOOK: &str = "payload-look=return(1)";

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await.with("delivery.payload_retention = \"2h\"");
    indexes(&fixture).await;
    fixture
}

fn daemon(fixture: &Fixture, failpoints: &str) -> Daemon {
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", failpoints);
    Daemon::spawn(command)
}

/// Ended that long ago.
fn ended(mut document: Document, hours: u64) -> Document {
    let at = before(Clock::local(), Duration::from_secs(hours * 3600));
    document.insert("finishedAt", at);
    document
}

/// With the body of a response in each attempt.
fn with_responses(mut document: Document) -> Document {
    for attempt in document.get_array_mut("history").unwrap() {
        attempt.as_document_mut().unwrap().insert("response", "no such jane");
    }
    document
}

fn payloads(document: &Document) -> usize {
    let deliveries = document.get_array("deliveries").unwrap().iter();
    deliveries
        .filter(|delivery| delivery.as_document().unwrap().contains_key("payload"))
        .count()
}

#[tokio::test]
async fn payloads_of_what_ended_long_ago_are_dropped_and_nothing_else() {
    let fixture = fixture().await;
    let mut settled = retry(ENDPOINT, &expiry(1), 2);
    settled.extend(doc! { "state": "delivered", "results": [accepted()], "open": 0, "finishedAt": 0 });
    let old = [
        delivered(batch(ENDPOINT, &[expiry(10), expiry(11)])),
        delivered(batch(ENDPOINT, &[award(12)])),
        cancelled(batch(ENDPOINT, &[expiry(13), expiry(14)])),
        with_responses(dead(ENDPOINT, &expiry(15))),
        with_responses(settled),
    ]
    .map(|document| ended(document, 3));
    let kept = [
        batch(ENDPOINT, &[expiry(20)]),
        retry(ENDPOINT, &expiry(21), 2),
        ended(dead(ENDPOINT, &expiry(22)), 1),
        ended(delivered(batch(ENDPOINT, &[expiry(23)])), 1),
        ended(rejected(&expiry(24)), 3),
    ];
    outbox(&fixture).insert_many(old.iter().chain(&kept)).await.unwrap();
    let _daemon = daemon(&fixture, LOOK);
    let dropped = doc! { "payloadDropped": true };
    fixture.wait_for_count(&outbox(&fixture), dropped, 5).await;
    for document in &old {
        let now = find(&fixture, id(document)).await;
        assert_eq!((payloads(&now), now.get_i32("version").ok()), (0, Some(2)), "{now}");
        for field in ["state", "finishedAt", "results", "open", "lastError", "reason"] {
            assert_eq!(now.get(field), document.get(field), "{field}: {now}");
        }
        for field in ["event", "type", "certificate", "occurredAt"] {
            assert_eq!(entries(&now, field), entries(document, field), "{field}: {now}");
        }
        let attempts = |document: &Document| document.get_array("history").map_or(0, Vec::len);
        assert_eq!(attempts(&now), attempts(document), "{now}");
        assert!(!now.to_string().contains("jane"), "{now}");
    }
    let letter = find(&fixture, id(&old[3])).await;
    assert_eq!(
        letter.get_bool("redrivable").ok(),
        Some(false),
        "it can't go out by itself"
    );
    for document in &kept {
        assert_eq!(&find(&fixture, id(document)).await, document);
    }
}

/// That field of each delivery.
fn entries(document: &Document, field: &str) -> Vec<bson::Bson> {
    let deliveries = document.get_array("deliveries").unwrap().iter();
    let value = |delivery: &bson::Bson| delivery.as_document().unwrap().get(field).cloned();
    deliveries.filter_map(value).collect()
}

#[tokio::test]
async fn nothing_is_read_twice() {
    let fixture = fixture().await;
    let first = ended(delivered(batch(ENDPOINT, &[expiry(1)])), 3);
    outbox(&fixture).insert_one(&first).await.unwrap();
    let _daemon = daemon(&fixture, LOOK);
    let noted =
        doc! { "_id": "payloads", "until": { "$gt": ended(first.clone(), 2).get_datetime("finishedAt").unwrap() } };
    fixture.wait_for_count(&fixture.state(), noted, 1).await;
    let progress = fixture.state().find_one(doc! { "_id": "payloads" }).await.unwrap();
    let until = progress.unwrap().get_datetime("until").unwrap().timestamp_millis();
    let at = |millis: i64, n| {
        let mut document = delivered(batch(ENDPOINT, &[expiry(n)]));
        document.insert("finishedAt", DateTime::from_millis(millis));
        document
    };
    // As none ends: behind the place that was reached.
    let (behind, next) = (at(until - 1, 2), at(until, 3));
    outbox(&fixture).insert_many([&behind, &next]).await.unwrap();
    let dropped = doc! { "_id": id(&next), "payloadDropped": true };
    fixture.wait_for_count(&outbox(&fixture), dropped, 1).await;
    assert_eq!(find(&fixture, id(&behind)).await, behind);
}

#[tokio::test]
async fn killed_at_each_step_it_goes_on_where_it_was() {
    let killed = ["payloads-dropped", "payloads-noted"].map(async |failpoint| {
        let fixture = fixture().await;
        let documents = (0..250).map(|n| ended(delivered(batch(ENDPOINT, &[expiry(n)])), 3));
        outbox(&fixture).insert_many(documents).await.unwrap();
        let failpoints = format!("{LOOK};{failpoint}=return");
        daemon(&fixture, &failpoints).ended().await;
        let dropped = doc! { "payloadDropped": true, "version": 2 };
        let count = outbox(&fixture).count_documents(dropped.clone()).await.unwrap();
        assert_eq!(count, 100, "{failpoint}");
        let _daemon = daemon(&fixture, LOOK);
        fixture.wait_for_count(&outbox(&fixture), dropped, 250).await;
    });
    join_all(killed).await;
}

#[tokio::test]
async fn what_mongodb_refuses_to_change_is_left_out_and_the_others_go_on() {
    let fixture = fixture().await;
    let documents: Vec<_> = (0..5)
        .map(|n| ended(delivered(batch(ENDPOINT, &[expiry(n)])), 3))
        .collect();
    outbox(&fixture).insert_many(&documents).await.unwrap();
    let refused = id(&documents[2]);
    let validator = doc! { "$or": [{ "_id": { "$ne": refused } }, { "payloadDropped": { "$exists": false } }] };
    let modify = doc! { "collMod": "webhook_outbox", "validator": validator };
    fixture.database.run_command(modify).await.unwrap();
    let daemon = daemon(&fixture, LOOK);
    let line = daemon
        .wait_for(|line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("refuses to drop"))
        })
        .await;
    assert!(line["document"].as_str().unwrap().contains(refused), "{line}");
    fixture
        .wait_for_count(&outbox(&fixture), doc! { "payloadDropped": true }, 4)
        .await;
    fixture
        .wait_for_count(&fixture.state(), doc! { "_id": "payloads" }, 1)
        .await;
}

#[tokio::test]
async fn a_replay_leaves_out_what_has_no_payload_and_says_so() {
    let fixture = fixture().await;
    let mut gone = dead(ENDPOINT, &expiry(1));
    gone.insert("payloadDropped", true);
    gone.get_array_mut("deliveries").unwrap()[0]
        .as_document_mut()
        .unwrap()
        .remove("payload");
    let there = dead(ENDPOINT, &expiry(2));
    outbox(&fixture).insert_many([&gone, &there]).await.unwrap();
    let preview = fixture.outcome(&["replay", "--all", "--dry-run"]).await;
    assert!(preview.stdout.contains("1 delivery would be sent again"), "{preview:?}");
    assert!(preview.stdout.contains("1 delivery left out"), "{preview:?}");
    for named in [expiry(1), format!("{}/{ENDPOINT}", expiry(1)), id(&gone).to_owned()] {
        let outcome = fixture.outcome(&["replay", "--id", &named]).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let errors = outcome.errors();
        assert!(errors[0].contains("its payload was dropped"), "{named}: {errors:?}");
    }
    let _daemon = fixture.daemon().await;
    let done = fixture
        .operate(doc! { "kind": "replay", "selection": { "all": true } })
        .await;
    let expected = doc! { "deliveries": 1_i64, "withoutPayload": 1_i64 };
    assert_eq!(done.get_document("result").ok(), Some(&expected), "{done}");
    assert_eq!(find(&fixture, id(&gone)).await, gone);
    let state = find(&fixture, id(&there)).await.get_str("state").unwrap().to_owned();
    assert_ne!(state, "dead");
}
