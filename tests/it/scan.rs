//! What a scan finds, marks and sends, and when it runs.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Received;
use futures_util::TryStreamExt;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::fixture::{Fixture, Outcome, certificate, expired, is_scan};

const HOUR: i64 = 3_600_000;

fn hours_ago(hours: i64) -> DateTime {
    DateTime::from_millis(Clock::local().timestamp_millis() - hours * HOUR)
}

fn id(document: &Document) -> ObjectId {
    document.get_object_id("_id").unwrap()
}

fn sent(request: &Received) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    body["_id"].as_str().unwrap().to_owned()
}

fn marked() -> Document {
    doc! { "expiryReminderSent": true }
}

#[tokio::test]
async fn false_null_and_absent_are_unsent_and_nothing_else_is_found() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let flagged = |flag: Bson| {
        let mut document = expired(organization);
        document.insert("expiryReminderSent", flag);
        document
    };
    let mut absent = expired(organization);
    absent.remove("expiryReminderSent");
    let unsent = [flagged(false.into()), flagged(Bson::Null), absent];
    let mut endless = certificate(organization, None);
    endless.remove("expires");
    let others = [
        flagged(true.into()),
        certificate(organization, Some(hours_ago(-1))),
        certificate(organization, None),
        endless,
    ];
    fixture
        .badge_users()
        .insert_many(unsent.iter().chain(&others))
        .await
        .unwrap();
    let daemon = fixture.daemon().await;

    let report = daemon.wait_for(is_scan).await;
    assert_eq!((&report["found"], &report["deliveries"]), (&3.into(), &3.into()));
    let requests = fixture.wait_for(|requests| requests.len() == 3).await;
    let mut ids: Vec<_> = requests.iter().map(sent).collect();
    let mut expected: Vec<_> = unsent.iter().map(|document| id(document).to_hex()).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    for request in &requests {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["expiryReminderSent"], true);
    }
    fixture.wait_for_count(&fixture.badge_users(), marked(), 4).await;
    for other in &others {
        let now = fixture.badge_users().find_one(doc! { "_id": id(other) }).await.unwrap();
        assert_eq!(now.as_ref(), Some(other), "left alone");
    }
}

#[tokio::test]
async fn without_a_subscriber_a_certificate_is_marked_all_the_same_and_nothing_is_sent() {
    let fixture = Fixture::new().await;
    let mut disabled = fixture.endpoint("/disabled");
    disabled.insert("enabled", false);
    let mut other_type = fixture.endpoint("/other");
    other_type.insert("eventTypes", ["certificate_completed", "no_such_type"]);
    let organization = fixture.organization(vec![disabled, other_type]).await;
    let documents = [expired(organization), expired(ObjectId::new())];
    fixture.badge_users().insert_many(&documents).await.unwrap();
    let daemon = fixture.daemon().await;

    let report = daemon.wait_for(is_scan).await;
    assert_eq!((&report["found"], &report["deliveries"]), (&2.into(), &0.into()));
    assert_eq!(fixture.badge_users().count_documents(marked()).await.unwrap(), 2);
    assert_eq!(fixture.count_deliveries(doc! {}).await, 0);
    assert_eq!(fixture.receiver.total(), 0);
}

#[tokio::test]
async fn a_later_expiry_of_the_same_certificate_is_a_new_event() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let document = certificate(organization, Some(hours_ago(2)));
    fixture.badge_users().insert_one(&document).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture.wait_for(|requests| requests.len() == 1).await;

    let renewed = doc! { "$set": { "expires": hours_ago(1), "expiryReminderSent": false } };
    let filter = doc! { "_id": id(&document) };
    fixture.badge_users().update_one(filter, renewed).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    let requests = fixture.wait_for(|requests| requests.len() == 2).await;
    assert_eq!(sent(&requests[0]), sent(&requests[1]));
    assert_ne!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
}

#[tokio::test]
async fn what_expired_before_not_before_is_left_alone() {
    let old_ones = hours_ago(10);
    let text = old_ones.try_to_rfc3339_string().unwrap();
    let fixture = Fixture::new().await.with(&format!("scan.not_before = \"{text}\""));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut odd = certificate(organization, Some(hours_ago(11)));
    odd.insert("expiryReminderSent", "no");
    let (old, new) = (
        certificate(organization, Some(hours_ago(11))),
        certificate(organization, Some(old_ones)),
    );
    fixture.badge_users().insert_many([&odd, &old, &new]).await.unwrap();
    let daemon = fixture.daemon().await;

    assert_eq!(daemon.wait_for(is_scan).await["found"], 1);
    let requests = fixture.wait_for(|requests| requests.len() == 1).await;
    assert_eq!(sent(&requests[0]), id(&new).to_hex());
    assert_eq!(fixture.badge_users().count_documents(marked()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_backlog_is_read_and_appended_page_by_page_the_earliest_expiry_first() {
    let settings = "scan.batch_size = 10\nscan.precise = false\ncompletions.enabled = false\ndelivery.concurrency = 1";
    let fixture = Fixture::new().await.with(settings);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    // What is in memory when it reads what is held is read again: a part of the first batch would go out later.
    let daemon = fixture.daemon().await;
    daemon
        .wait_for(|line| line["message"] == "acted on what operations have changed")
        .await;
    daemon.wait_for(is_scan).await;
    // Kept on disk against their order.
    let documents: Vec<_> = (1..=95)
        .map(|n| certificate(organization, Some(hours_ago(n))))
        .collect();
    fixture.badge_users().insert_many(&documents).await.unwrap();
    let appends = doc! { "op": "insert", "ns": format!("{}.webhook_outbox", fixture.database.name()) };
    fixture.profile(&appends).await;
    daemon.signal(Signal::SIGUSR1);

    assert_eq!(daemon.wait_for_nth(is_scan, 2).await["found"], 95);
    assert_eq!(
        fixture.profiled(&appends).await.len(),
        10,
        "a transaction for each page"
    );
    let batches = fixture.outbox().find(doc! {}).sort(doc! { "due": 1 }).await.unwrap();
    let batches: Vec<Document> = batches.try_collect().await.unwrap();
    let appended: Vec<Vec<ObjectId>> = batches.iter().map(certificates).collect();
    let expected: Vec<_> = documents.iter().rev().map(id).collect();
    for (page, certificates) in expected.chunks(10).enumerate() {
        let place = appended.iter().position(|batch| batch == certificates).unwrap();
        // Two pages are written at a time: either may be the first.
        assert!(place.abs_diff(page) <= 1, "page {page} is the {place}th");
    }
    let requests = fixture.wait_for(|requests| requests.len() == 95).await;
    for (place, sent) in requests.iter().map(sent).enumerate() {
        let n = expected.iter().position(|id| id.to_hex() == sent).unwrap();
        assert!(place.abs_diff(n) < 20, "the {n}th is sent as the {place}th");
    }
}

/// The certificates of a batch, in its order.
fn certificates(batch: &Document) -> Vec<ObjectId> {
    let deliveries = batch.get_array("deliveries").unwrap().iter();
    let certificate = |delivery: &Bson| delivery.as_document().unwrap().get_object_id("certificate");
    deliveries.map(|delivery| certificate(delivery).unwrap()).collect()
}

#[tokio::test]
async fn with_on_start_off_nothing_is_scanned_until_it_is_asked_for() {
    let fixture = Fixture::new().await.with("scan.on_start = false");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
    fixture.wait_for(|requests| requests.len() == 1).await;

    // A scan at the start would have been over by now, and would have found nothing.
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    assert_eq!(daemon.wait_for(is_scan).await["found"], 1);
}

#[tokio::test]
async fn the_schedule_rings_again_and_again() {
    let fixture = Fixture::new()
        .await
        .with("scan.on_start = false\nscan.schedule = \"* * * * * *\"");
    let daemon = fixture.daemon().await;
    daemon.wait_for_nth(is_scan, 2).await;
}

#[tokio::test]
async fn a_scan_that_finds_something_is_told_of_and_shown_and_one_that_finds_nothing_only_to_who_asked() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    let told = |n: usize| daemon.wait_for_nth(is_scan, n);
    let shown = || async {
        let status = fixture.outcome(&["status", "--json"]).await.stdout;
        let status: Value = serde_json::from_str(&status).unwrap();
        let scan = &status["last_scan"];
        (scan["found"].clone(), scan["found_last"]["found"].clone())
    };
    let level = |line: &Value| {
        (
            line["level"].as_str().unwrap().to_owned(),
            line["found"].as_u64().unwrap(),
        )
    };

    assert_eq!(level(&told(1).await), ("INFO".into(), 1), "at the start");
    let soon = DateTime::from_millis(Clock::local().timestamp_millis() + 700);
    let two = [0, 1].map(|_| certificate(organization, Some(soon)));
    fixture.badge_users().insert_many(two).await.unwrap();
    assert_eq!(level(&told(2).await), ("INFO".into(), 2), "at the moment of expiry");
    fixture
        .wait_for_count(&fixture.state(), doc! { "_id": "scan", "found": 2 }, 1)
        .await;
    assert_eq!(shown().await, (2.into(), 2.into()));

    daemon.signal(Signal::SIGUSR1);
    assert_eq!(level(&told(3).await), ("INFO".into(), 0), "an operator asked");
    fixture
        .wait_for_count(&fixture.state(), doc! { "_id": "scan", "found": 0 }, 1)
        .await;
    assert_eq!(shown().await, (0.into(), 2.into()));
    let table = fixture.outcome(&["status"]).await.stdout;
    assert!(
        table.contains("\nlast found ") && table.contains(": 2 certificates, 2 deliveries"),
        "{table}"
    );
}

#[tokio::test]
async fn scheduled_scans_that_find_nothing_are_at_debug() {
    let fixture = Fixture::new().await.with("scan.schedule = \"* * * * * *\"");
    let daemon = fixture.daemon().await;
    daemon.wait_for_nth(is_scan, 3).await;
    let scans: Vec<_> = daemon.lines().into_iter().filter(is_scan).collect();
    assert!(scans.iter().all(|line| line["level"] == "DEBUG"), "{scans:?}");
}

fn is_index_announced(line: &Value) -> bool {
    let told = "creating the index that serves the scan";
    line["level"] == "INFO" && line["message"] == told && line["index"] == "certhookd_scan"
}

#[tokio::test]
async fn the_index_is_announced_and_created_once_and_again_after_the_collection_was_dropped() {
    let fixture = Fixture::new().await;
    let mut daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    assert_eq!(daemon.count(is_index_announced), 1);
    let names = fixture.badge_users().list_index_names().await.unwrap();
    assert_eq!(names, ["_id_", "certhookd_scan"]);

    fixture.badge_users().drop().await.unwrap();
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    daemon.wait_for(|line| line["message"] == "endpoints read").await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for(|line| is_scan(line) && line["found"] == 1).await;
    let names = fixture.badge_users().list_index_names().await.unwrap();
    assert_eq!(names, ["_id_", "certhookd_scan"]);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn with_ensure_indexes_off_none_is_created_and_the_scan_works_all_the_same() {
    let fixture = Fixture::new().await.with("scan.ensure_indexes = false");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["found"], 1);
    assert_eq!(daemon.count(is_index_announced), 0);
    assert_eq!(fixture.badge_users().list_index_names().await.unwrap(), ["_id_"]);
}

#[tokio::test]
async fn an_index_that_the_operator_made_by_hand_is_used_under_its_name() {
    let fixture = Fixture::new().await;
    let keys = doc! { "expiryReminderSent": 1, "expires": 1 };
    let index = mongodb::IndexModel::builder().keys(keys).build();
    fixture.badge_users().create_index(index).await.unwrap();
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    assert_eq!(daemon.count(is_index_announced), 0);
    assert_eq!(fixture.badge_users().list_index_names().await.unwrap().len(), 2);
}

/// Has the command see a clock that is wrong by that many hours.
fn skew(command: &mut Command, hours: i64) {
    let architectures = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut libraries = architectures.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    let library = libraries.find(|library| library.is_file());
    command
        .env(
            "LD_PRELOAD",
            library.expect("libfaketime is not installed: apt-get install libfaketime"),
        )
        .env("FAKETIME", format!("{:+}s", hours * 3_600))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DISABLE_SHM", "1");
}

#[tokio::test]
async fn a_dry_run_goes_by_mongodbs_clock_and_not_by_the_machines() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let hours = [-2, -1, 1, 2].map(|hours| certificate(organization, Some(hours_ago(hours))));
    fixture.badge_users().insert_many(hours).await.unwrap();
    for hours in [0, 24, -24, 24 * 3650] {
        let mut command = fixture.command(&["scan", "--dry-run"]);
        skew(&mut command, hours);
        let outcome = Outcome::of(command).await;
        assert_eq!(outcome.code, Some(0), "{hours}: {outcome:?}");
        let counted = outcome
            .stdout
            .lines()
            .find(|line| line.contains(&organization.to_hex()));
        let counted: Vec<_> = counted.into_iter().flat_map(str::split_whitespace).skip(1).collect();
        assert_eq!(counted, ["2", "2"], "{hours}: {outcome:?}");
    }
}
