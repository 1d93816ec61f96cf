//! A backfill and awards at the same time.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use futures_util::TryStreamExt;

use super::Organization;
use crate::fixture::{Daemon, Fixture, LIMIT, certificate, completed_id, is_scan};

/// A daemon that waits at a failpoint.
async fn daemon(fixture: &Fixture, failpoints: &str) -> Daemon {
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", failpoints);
    let daemon = Daemon::spawn(command);
    daemon.wait_for(is_scan).await;
    daemon
}

/// Waits until a transaction of this fixture's daemon is open for a while: it is at its failpoint.
async fn is_paused(fixture: &Fixture) {
    let admin = fixture.database.client().database("admin");
    let state = fixture.state();
    let found = state.find(doc! { "_id": { "$regex": "^instance/" } }).await.unwrap();
    let instances: Vec<_> = found.try_collect().await.unwrap();
    let sessions = instances.iter().flat_map(|one| one.get_array("sessions").unwrap());
    let sessions: Vec<Bson> = sessions
        .map(|one| one.as_document().unwrap().get("id").unwrap().clone())
        .collect();
    let pipeline = [
        doc! { "$currentOp": { "idleSessions": true } },
        doc! { "$match": { "lsid.id": { "$in": sessions }, "transaction.timeOpenMicros": { "$gt": 300_000 } } },
    ];
    let paused = async {
        while admin
            .aggregate(pipeline.clone())
            .await
            .unwrap()
            .try_next()
            .await
            .unwrap()
            .is_none()
        {}
    };
    tokio::time::timeout(LIMIT, paused).await.expect("nothing is paused");
}

fn backfill(organization: &Organization) -> Document {
    let options = doc! { "ratePerSecond": 10_000 };
    doc! { "kind": "backfill", "selection": { "endpoint": organization.endpoint() }, "options": options }
}

async fn ask(organization: &Organization) -> Bson {
    let operations = organization.fixture.operations();
    operations.insert_one(backfill(organization)).await.unwrap().inserted_id
}

#[tokio::test]
async fn an_award_does_not_wait_for_a_step_that_is_under_way() {
    let organization = Organization::with(30, 0).await;
    let fixture = &organization.fixture;
    let _daemon = daemon(fixture, "backfill-pause=1*return(4)").await;
    let id = ask(&organization).await;
    is_paused(fixture).await;
    for n in 0..5 {
        let award = certificate(organization.id, None);
        fixture.badge_users().insert_one(&award).await.unwrap();
        let arrived = |received: &[_]| organization.ids(received).contains(&completed_id(&award));
        fixture.wait_for(arrived).await;
        let under_way = doc! { "_id": &id, "progress.done": 0_i64 };
        let count = fixture.operations().count_documents(under_way).await.unwrap();
        assert_eq!(count, 1, "award {n} came after the step");
    }
    let done = fixture.ended(&id).await;
    assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
    fixture.receiver.wait_for_total(35, LIMIT).await.unwrap();
}

#[tokio::test]
async fn an_award_does_not_wait_for_a_step_that_waits_for_another() {
    let organization = Organization::with(2, 0).await;
    let fixture = &organization.fixture;
    let _daemon = daemon(fixture, "backfill-pause=1*return(4)").await;
    let [under_way, waiting] = [0, 1].map(|n: usize| {
        let mut operation = backfill(&organization);
        let selection = operation.get_document_mut("selection").unwrap();
        selection.insert("certificate", organization.alive[n].get("_id"));
        operation
    });
    let operations = fixture.operations();
    let id = operations.insert_one(under_way).await.unwrap().inserted_id;
    is_paused(fixture).await;
    let other = operations.insert_one(waiting).await.unwrap().inserted_id;
    let begun = doc! { "_id": &other, "state": "running" };
    let has_begun = async { while operations.count_documents(begun.clone()).await.unwrap() == 0 {} };
    tokio::time::timeout(LIMIT, has_begun).await.expect("it does not begin");

    // Its certificate is awarded for another time, and that is corrected to what it was: the same event, again and again.
    let certificate = &organization.alive[1];
    for n in 1..=3 {
        let mut again = certificate.clone();
        let later = DateTime::from_millis(Clock::local().timestamp_millis() + n);
        again.insert("creationDate", later);
        for state in [&again, certificate] {
            let set = doc! { "$set": { "creationDate": state.get("creationDate") } };
            let which = doc! { "_id": certificate.get("_id") };
            fixture.badge_users().update_one(which, set).await.unwrap();
        }
        let arrived = |received: &[_]| organization.ids(received).contains(&completed_id(&again));
        fixture.wait_for(arrived).await;
        let is_under_way = doc! { "_id": &id, "progress.done": 0_i64 };
        let count = operations.count_documents(is_under_way).await.unwrap();
        assert_eq!(count, 1, "award {n} came after the step");
    }
    for id in [&id, &other] {
        let done = fixture.ended(id).await;
        assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
    }
    assert_eq!(deliveries(fixture, &completed_id(certificate)).await, 1);
}

/// How many deliveries of that event there are.
async fn deliveries(fixture: &Fixture, event: &str) -> u64 {
    fixture.count_deliveries(doc! { "event": event }).await
}

#[tokio::test]
async fn of_an_event_that_both_are_about_to_append_an_endpoint_gets_one_delivery() {
    // The watch comes first.
    let organization = Organization::with(30, 0).await;
    let fixture = &organization.fixture;
    let paused = daemon(fixture, "completions-pause=1*return(2)").await;
    let award = certificate(organization.id, None);
    fixture.badge_users().insert_one(&award).await.unwrap();
    is_paused(fixture).await;
    let done = fixture.ended(&ask(&organization).await).await;
    let expected = doc! { "deliveries": 30_i64, "known": 1_i64, "skipped": 0_i64 };
    assert_eq!(done.get_document("result").ok(), Some(&expected), "{done}");
    assert_eq!(deliveries(fixture, &completed_id(&award)).await, 1);
    drop(paused);

    // The backfill does: of certificates that are awarded for another time, and whose award is then corrected to what it was.
    let organization = Organization::with(30, 0).await;
    let fixture = &organization.fixture;
    let _paused = daemon(fixture, "backfill-pause=1*return(2)").await;
    let id = ask(&organization).await;
    is_paused(fixture).await;
    let first = &organization.alive[0];
    let later = DateTime::from_millis(Clock::local().timestamp_millis() + 1);
    let mut again = first.clone();
    again.insert("creationDate", later);
    for state in [&again, first] {
        let set = doc! { "$set": { "creationDate": state.get("creationDate") } };
        let which = doc! { "_id": first.get("_id") };
        fixture.badge_users().update_one(which, set).await.unwrap();
    }
    fixture.ended(&id).await;
    fixture
        .wait_for_deliveries(doc! { "event": completed_id(&again) }, 1)
        .await;
    assert_eq!(deliveries(fixture, &completed_id(first)).await, 1);
    assert_eq!(fixture.count_deliveries(doc! {}).await, 31);
}

#[tokio::test]
async fn an_award_overtakes_what_is_in_memory_of_a_backfill() {
    let organization = Organization::with(400, 0).await;
    let fixture = &organization.fixture;
    let slow = (0..500).map(|_| Response::ok().after(Duration::from_millis(30)));
    fixture.receiver.script("/added", slow);
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    ask(&organization).await;
    fixture.wait_for_deliveries(doc! {}, 400).await;
    // All that had come by the first fetch is out, and the rest in memory.
    fixture.receiver.wait_for_total(130, LIMIT).await.unwrap();
    let award = certificate(organization.id, None);
    fixture.badge_users().insert_one(&award).await.unwrap();
    fixture
        .wait_for_deliveries(doc! { "event": completed_id(&award) }, 1)
        .await;
    let before = fixture.receiver.total();
    assert!(before < 300, "the backfill is over");
    let received = fixture.wait_for(|received| received.len() == 401).await;
    let mut ids = received.iter().map(|one| one.header("webhook-id"));
    let place = ids.position(|id| id == completed_id(&award)).unwrap();
    assert!(place < before + 10, "{place} of 400, where {before} had come");
}
