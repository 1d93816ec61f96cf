//! Somebody keeps documents of one endpoint locked, as a transaction does whose instance died or which a person forgot: the others go on,
//! and the operator is told.

use std::time::Duration;

use bson::{Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use mongodb::ClientSession;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, endpoint_key, expired_in_turn, pending_batch};
use crate::layout::{after, batch, expiry, id};

/// A transaction that stays open and has changed that document of the outbox.
pub async fn lock(fixture: &Fixture, id: &str) -> ClientSession {
    let mut session = fixture.database.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let touch = doc! { "$set": { "touched": true } };
    let outbox = fixture.outbox();
    let update = outbox.update_one(doc! { "_id": id }, touch).session(&mut session);
    assert_eq!(update.await.unwrap().modified_count, 1);
    session
}

fn is_locked(line: &Value, level: &str, endpoint: &Document) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    line["level"] == level
        && line["endpoint"] == endpoint.get_object_id("_id").unwrap().to_hex()
        && (message.contains("from being recorded") || message.contains("are recorded again"))
}

#[tokio::test]
async fn results_that_somebody_keeps_locked_for_long_are_logged_once_and_that_it_is_over() {
    let fixture = Fixture::new().await;
    let endpoints = ["/a", "/b", "/free"].map(|path| fixture.endpoint(path));
    let organization = fixture.organization(endpoints.to_vec()).await;
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "contended-log=return(1)");
    let mut daemon = Daemon::spawn(command);
    daemon.wait_for(|line| line["message"] == "ready").await;
    let mut batches = Vec::new();
    for (seconds, endpoint) in [3, 5, 1].into_iter().zip(&endpoints) {
        let certificates = expired_in_turn(organization, 1);
        let mut batch = pending_batch(&endpoint_key(organization, endpoint), &certificates);
        // Once they are locked, and the second after the first is logged.
        batch.insert("due", after(Clock::local(), Duration::from_secs(seconds)));
        fixture.outbox().insert_one(&batch).await.unwrap();
        batches.push(batch);
    }
    let mut locks = [
        lock(&fixture, id(&batches[0])).await,
        lock(&fixture, id(&batches[1])).await,
    ];
    for (endpoint, batch) in endpoints.iter().zip(&batches).take(2) {
        let line = daemon.wait_for(|line| is_locked(line, "WARN", endpoint)).await;
        assert_eq!(
            (&line["delivery"], &line["results"]),
            (&id(batch).into(), &1.into()),
            "{line}"
        );
        assert_eq!(line["organization"], organization.to_hex(), "{line}");
    }
    for lock in &mut locks {
        lock.abort_transaction().await.unwrap();
    }
    for endpoint in &endpoints[..2] {
        daemon.wait_for(|line| is_locked(line, "INFO", endpoint)).await;
    }
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 3).await;
    assert!(daemon.stop().await.success());
    for (expected, endpoint) in [1, 1, 0].into_iter().zip(&endpoints) {
        let [warned, ended] = ["WARN", "INFO"].map(|level| daemon.count(|line| is_locked(line, level, endpoint)));
        assert_eq!((warned, ended), (expected, expected), "{endpoint}");
    }
    assert_eq!(fixture.receiver.total(), 3, "nothing twice");
}

#[tokio::test]
async fn an_endpoint_whose_deliveries_are_locked_keeps_no_other_from_being_moved_when_all_are_released() {
    let fixture = Fixture::new().await.with("service.start_held = true");
    let mut endpoints = ["/a", "/b", "/c"].map(|path| fixture.endpoint(path));
    // They are moved in this order.
    endpoints.sort_by_key(|endpoint| endpoint.get_object_id("_id").unwrap());
    let organization = fixture.organization(endpoints.to_vec()).await;
    let keys = endpoints
        .each_ref()
        .map(|endpoint| endpoint_key(organization, endpoint));
    let last = keys.each_ref().map(|key| batch(key, &[expiry(5)]));
    for (key, last) in keys.iter().zip(&last) {
        let mut batches: Vec<_> = (0..5).map(|n| batch(key, &[expiry(n)])).collect();
        batches.push(last.clone());
        fixture.outbox().insert_many(batches).await.unwrap();
    }
    for path in ["/a", "/b", "/c"] {
        fixture.receiver.script(path, [Response::silence()]);
    }
    let daemon = fixture.daemon().await;
    let waits = doc! { "_id": { "$regex": "^endpoint/" }, "waitingSince": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), waits, 3).await;
    let mut locked = lock(&fixture, id(&last[0])).await;
    let released = fixture.outcome(&["release", "--all"]).await;
    assert_eq!(released.code, Some(0), "{released:?}");
    let is_moved = |n: usize| doc! { "_id": id(&last[n]), "queue": format!("{}/background", keys[n]) };
    for n in [1, 2] {
        fixture.wait_for_count(&fixture.outbox(), is_moved(n), 1).await;
    }
    assert_eq!(fixture.outbox().count_documents(is_moved(0)).await.unwrap(), 0);
    locked.abort_transaction().await.unwrap();
    fixture.wait_for_count(&fixture.outbox(), is_moved(0), 1).await;
    drop(daemon);
}
