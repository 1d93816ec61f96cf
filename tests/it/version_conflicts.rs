//! Somebody else writes to a batch while its deliveries are in flight, or MongoDB's word on a commit gets lost: what was written
//! stays, and each result is recorded and counted once.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Options, ReplicaSet, Response};
use futures_util::TryStreamExt;
use http::StatusCode;

use crate::fixture::{
    Daemon, Fixture, LIMIT, certificate, endpoint_key, expired, expired_in_turn, heard, pending_batch,
};
use crate::layout::after;
use crate::locked::lock;

/// A daemon with one batch of that many deliveries, which get these responses.
async fn sending(deliveries: i64, responses: &[Response]) -> (Fixture, Daemon, Document) {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    fixture.receiver.script("/a", responses.to_vec());
    let certificates = expired_in_turn(organization, deliveries);
    let batch = pending_batch(&endpoint_key(organization, &endpoint), &certificates);
    fixture.outbox().insert_one(&batch).await.unwrap();
    let daemon = fixture.daemon().await;
    let of_batch = doc! { "_id": batch.get_str("_id").unwrap() };
    (fixture, daemon, of_batch)
}

fn ok_after(seconds: u64) -> Response {
    Response::ok().after(Duration::from_secs(seconds))
}

/// Successes and cancellations, over all endpoints and days.
async fn counted(fixture: &Fixture) -> (i64, i64) {
    let days: Vec<Document> = fixture
        .statistics()
        .find(doc! {})
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let sum = |field: &str| days.iter().map(|day| day.get_i64(field).unwrap()).sum();
    (sum("successes"), sum("cancelled"))
}

/// Settles that place of a batch, as another instance does.
async fn settle(fixture: &Fixture, of_batch: &Document, place: usize) {
    let result = doc! { "at": Clock::local(), "status": 204, "ms": 1 };
    let settle = doc! { "$set": { format!("results.{place}"): result }, "$inc": { "version": 1, "open": -1 } };
    fixture.outbox().update_one(of_batch.clone(), settle).await.unwrap();
}

/// The status of each result of the only batch.
async fn statuses(fixture: &Fixture) -> Vec<i32> {
    let batch = fixture.outbox().find_one(doc! {}).await.unwrap().unwrap();
    let results = batch.get_array("results").unwrap().iter();
    results
        .map(|result| result.as_document().unwrap().get_i32("status").unwrap())
        .collect()
}

#[tokio::test]
async fn what_another_has_settled_stays_and_the_rest_is_recorded_once() {
    let (fixture, mut daemon, of_batch) = sending(5, &[ok_after(1)]).await;
    // The first is sent alone. One is settled that was not read yet,
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    settle(&fixture, &of_batch, 2).await;
    // and one that is in flight.
    fixture.receiver.wait_for_total(4, LIMIT).await.unwrap();
    settle(&fixture, &of_batch, 4).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 5).await;
    assert!(daemon.stop().await.success());
    assert_eq!(statuses(&fixture).await, [200, 200, 204, 200, 204]);
    let ended = doc! { "state": "delivered", "open": 0, "finishedAt": { "$exists": true } };
    assert_eq!(fixture.outbox().count_documents(ended).await.unwrap(), 1);
    assert_eq!(fixture.receiver.total(), 4);
    assert_eq!(counted(&fixture).await, (3, 0), "what this daemon recorded");
}

/// The endpoint is switched off with requests in flight.
async fn off(fixture: &Fixture) {
    let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
    fixture.member_configs().update_one(doc! {}, off).await.unwrap();
    fixture
        .wait_for_count(&fixture.outbox(), doc! { "state": "cancelled" }, 1)
        .await;
}

/// As a transaction does whose instance died, until MongoDB ends it after a minute.
#[tokio::test]
async fn a_batch_that_somebody_keeps_locked_keeps_no_other_from_being_recorded() {
    let fixture = Fixture::new().await;
    let endpoints = ["/locked", "/a", "/b"].map(|path| fixture.endpoint(path));
    let [organization, others] = [&endpoints[..1], &endpoints[1..]].map(<[Document]>::to_vec);
    let (organization, others) = (
        fixture.organization(organization).await,
        fixture.organization(others).await,
    );
    let mut daemon = fixture.daemon().await;
    let certificates = expired_in_turn(organization, 1);
    let mut batch = pending_batch(&endpoint_key(organization, &endpoints[0]), &certificates);
    // Once it is locked.
    batch.insert("due", after(Clock::local(), Duration::from_secs(3)));
    fixture.outbox().insert_one(&batch).await.unwrap();
    let mut session = lock(&fixture.outbox(), batch.get_str("_id").unwrap()).await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    let is_delivered = |key: String| doc! { "endpoint": key, "state": "delivered" };
    for n in 1..=10 {
        let awarded = certificate(others, None);
        fixture.badge_users().insert_one(awarded).await.unwrap();
        for endpoint in &endpoints[1..] {
            fixture
                .wait_for_deliveries(is_delivered(endpoint_key(others, endpoint)), n)
                .await;
        }
    }
    assert_eq!(
        fixture
            .outbox()
            .count_documents(doc! { "_id": batch.get_str("_id").unwrap(), "state": "pending" })
            .await
            .unwrap(),
        1
    );
    session.abort_transaction().await.unwrap();
    fixture
        .wait_for_deliveries(is_delivered(endpoint_key(organization, &endpoints[0])), 1)
        .await;
    assert!(daemon.stop().await.success());
    assert_eq!(
        fixture
            .receiver
            .requests()
            .iter()
            .filter(|one| one.path == "/locked")
            .count(),
        1
    );
    let is_told = |line: &serde_json::Value| line["message"].to_string().contains("from being recorded");
    assert_eq!(daemon.count(is_told), 0, "it was soon over");
}

#[tokio::test]
async fn what_was_cancelled_in_flight_and_arrived_all_the_same_is_delivered() {
    for deliveries in [1, 5] {
        let (fixture, mut daemon, _) = sending(deliveries, &[ok_after(4)]).await;
        fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
        off(&fixture).await;
        fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
        assert!(daemon.stop().await.success());
        let cancelled = doc! { "state": "cancelled", "reason": "the endpoint was disabled" };
        assert_eq!(fixture.count_deliveries(cancelled).await, deliveries as u64 - 1);
        assert_eq!(fixture.receiver.total(), 1);
        assert_eq!(counted(&fixture).await, (1, deliveries - 1));
    }
}

#[tokio::test]
async fn what_was_cancelled_in_flight_and_failed_stays_cancelled() {
    // The failures come when the others are recorded.
    let failure = Response::status(StatusCode::SERVICE_UNAVAILABLE).after(Duration::from_secs(5));
    let responses = [ok_after(0), ok_after(3), ok_after(3), failure.clone(), failure];
    let (fixture, mut daemon, _) = sending(5, &responses).await;
    fixture.receiver.wait_for_total(5, LIMIT).await.unwrap();
    off(&fixture).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 3).await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.count_deliveries(doc! { "state": "cancelled" }).await, 2);
    assert_eq!(fixture.count_deliveries(doc! {}).await, 5);
    assert_eq!(counted(&fixture).await, (3, 2));
}

/// Commits that take effect and are said to be uncertain, and such that never reach MongoDB.
#[tokio::test]
async fn commits_of_which_the_reply_is_lost_are_made_once() {
    const EVENTS: usize = 20;
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let unconfirmed = doc! { "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } };
    for lost in [unconfirmed, doc! { "closeConnection": true }] {
        let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
        let endpoints = [fixture.endpoint("/a"), fixture.endpoint("/b")];
        let organization: ObjectId = fixture.organization(endpoints.to_vec()).await;
        let mut daemon = fixture.daemon().await;
        let mut data = doc! { "failCommands": ["commitTransaction"], "appName": "certhookd" };
        data.extend(lost.clone());
        // One of three, over and over.
        let mode = doc! { "activationProbability": 0.33 };
        let fail = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        let admin = fixture.database.client().database("admin");
        admin.run_command(fail).await.unwrap();
        // One after the other, so that each has transactions of its own.
        for n in 1..=EVENTS {
            let awarded = certificate(organization, None);
            fixture.badge_users().insert_one(awarded).await.unwrap();
            fixture.wait_for(|requests| requests.len() >= 2 * n).await;
        }
        fixture
            .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, EVENTS as u64 * 2)
            .await;
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        let count = admin.run_command(off).await.unwrap().get_i32("count").unwrap();
        assert!(count > 2, "{count} were lost: {lost}");
        assert!(daemon.stop().await.success());
        assert_eq!(fixture.count_deliveries(doc! {}).await, EVENTS as u64 * 2, "{lost}");
        assert_eq!(fixture.receiver.total(), EVENTS * 2, "nothing twice: {lost}");
        assert_eq!(heard(&fixture.receiver.requests()).len(), EVENTS * 2);
        assert_eq!(counted(&fixture).await, (EVENTS as i64 * 2, 0), "{lost}");
    }
}

/// Has the next commit of a daemon be made, and be said to have failed.
async fn have_a_commit_seem_failed(fixture: &Fixture) {
    let unknown = doc! { "code": 79, "errmsg": "no such write concern" };
    let data = doc! { "failCommands": ["commitTransaction"], "appName": "certhookd", "writeConcernError": unknown };
    let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
    let admin = fixture.database.client().database("admin");
    admin.run_command(fail).await.unwrap();
}

fn is_back(line: &serde_json::Value) -> bool {
    line["message"] == "MongoDB is back"
}

#[tokio::test]
async fn what_was_written_by_a_commit_that_seemed_to_fail_is_looked_for() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let settings = "completions.enabled = false\nscan.schedule = \"* * * * * *\"";
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap()).with(settings);
    let organization: ObjectId = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let failure = Response::status(StatusCode::INTERNAL_SERVER_ERROR).after(Duration::from_secs(1));
    fixture.receiver.script("/a", vec![failure, Response::ok()]);
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "look=return(3600)");
    let mut daemon = Daemon::spawn(command);
    daemon.wait_for(|line| line["message"] == "ready").await;
    have_a_commit_seem_failed(&fixture).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    // The scan finds nothing any more when it is repeated.
    fixture.wait_for(|requests| requests.len() == 1).await;
    have_a_commit_seem_failed(&fixture).await;
    // Of the retry that it wrote the recorder knows nothing.
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 2 }, 1)
        .await;
    assert_eq!(fixture.receiver.total(), 2);
    assert_eq!(daemon.count(is_back), 2);
    assert_eq!(
        fixture
            .count_deliveries(doc! { "deadSince": { "$exists": true } })
            .await,
        0
    );
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_backfill_counts_a_step_once_whose_commit_seemed_to_fail() {
    const CERTIFICATES: i64 = 50;
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap()).with("completions.enabled = false");
    let endpoint = fixture.endpoint("/a");
    let organization: ObjectId = fixture.organization(vec![endpoint.clone()]).await;
    let certificates = (0..CERTIFICATES).map(|_| certificate(organization, None));
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "backfill-pause=1*return(2)");
    let _daemon = Daemon::spawn(command);
    let selection = doc! { "endpoint": endpoint_key(organization, &endpoint) };
    let backfill = doc! { "kind": "backfill", "selection": selection, "by": "a test" };
    let id = fixture.operations().insert_one(backfill).await.unwrap().inserted_id;
    let begun = doc! { "_id": &id, "state": "running" };
    fixture.wait_for_count(&fixture.operations(), begun, 1).await;
    // While the step waits for two seconds before its commit.
    have_a_commit_seem_failed(&fixture).await;
    let done = fixture.ended(&id).await;
    let expected = doc! { "deliveries": CERTIFICATES, "known": 0_i64, "skipped": 0_i64 };
    assert_eq!(done.get_document("result").ok(), Some(&expected), "{done}");
    fixture
        .wait_for_deliveries(doc! { "state": "delivered" }, CERTIFICATES.unsigned_abs())
        .await;
    assert_eq!(fixture.receiver.total(), CERTIFICATES as usize);
}

/// The commit takes effect, and its reply comes so late that the fetcher finds the batches first, which are sent and recorded
/// meanwhile.
#[tokio::test]
async fn what_is_recorded_before_its_append_is_confirmed_is_sent_once() {
    const EVENTS: usize = 4;
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
    let organization: ObjectId = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    for n in 1..=EVENTS {
        // The source asks after 0, 0.1, 0.3, 0.7, 1.5 s; the recorder, later, twice.
        let unconfirmed = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
        let fail = doc! {
            "configureFailPoint": "failCommand",
            "mode": { "times": 6 },
            "data": { "failCommands": ["commitTransaction"], "appName": "certhookd", "writeConcernError": unconfirmed },
        };
        fixture
            .database
            .client()
            .database("admin")
            .run_command(fail)
            .await
            .unwrap();
        let awarded = certificate(organization, None);
        fixture.badge_users().insert_one(awarded).await.unwrap();
        fixture
            .wait_for_deliveries(doc! { "state": "delivered" }, n as u64)
            .await;
    }
    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
    fixture
        .wait_for_deliveries(doc! { "state": "delivered" }, EVENTS as u64 + 1)
        .await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), EVENTS + 1, "nothing twice");
}
