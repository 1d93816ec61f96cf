//! Somebody keeps documents of one endpoint locked, as a transaction does whose instance died or which a person forgot: the others go on,
//! and the operator is told.

use std::time::Duration;

use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use mongodb::{ClientSession, Collection};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, endpoint_key, expired_in_turn, pending_batch};
use crate::layout::{after, batch, expiry, id};

/// A transaction that stays open and has changed that document.
pub async fn lock(collection: &Collection<Document>, id: impl Into<Bson>) -> ClientSession {
    lock_all(collection, vec![id.into()]).await
}

/// The same of several.
async fn lock_all(collection: &Collection<Document>, ids: Vec<Bson>) -> ClientSession {
    let mut session = collection.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let count = ids.len() as u64;
    let touch = doc! { "$set": { "touched": true } };
    let update = collection
        .update_many(doc! { "_id": { "$in": ids } }, touch)
        .session(&mut session);
    assert_eq!(update.await.unwrap().modified_count, count);
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
        lock(&fixture.outbox(), id(&batches[0])).await,
        lock(&fixture.outbox(), id(&batches[1])).await,
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
    let mut locked = lock(&fixture.outbox(), id(&last[0])).await;
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

fn is_kept_unmarked(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    line["level"] == "WARN" && message.contains("kept certificates from being marked")
}

/// As a transaction of the platform's does, or that of an instance which died while it marked them.
#[tokio::test]
async fn expired_certificates_that_somebody_keeps_locked_stop_no_other() {
    // The first of a page, some in the middle, many pages full of them, and the only one.
    for (certificates, locked) in [(40, 0..1), (40, 10..13), (900, 5..800), (1, 0..1)] {
        let fixture = Fixture::new()
            .await
            .with("scan.batch_size = 10\ncompletions.enabled = false");
        let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
        // An index can't be created while a document is locked.
        assert!(fixture.daemon().await.stop().await.success());
        let expired = expired_in_turn(organization, certificates);
        fixture.badge_users().insert_many(&expired).await.unwrap();
        let ids = expired[locked.clone()]
            .iter()
            .map(|one| one.get("_id").unwrap().clone());
        let mut lock = lock_all(&fixture.badge_users(), ids.collect()).await;
        let mut command = fixture.command(&["run"]);
        command.env("FAILPOINTS", "locked-log=return(3)");
        let mut daemon = Daemon::spawn(command);
        let free = expired.len() - locked.len();
        fixture.wait_for(|requests| requests.len() == free).await;
        daemon.wait_for(is_kept_unmarked).await;
        // What expires meanwhile goes out as well.
        let another = expired_in_turn(organization, 1);
        fixture.badge_users().insert_many(&another).await.unwrap();
        daemon.signal(Signal::SIGUSR1);
        fixture.wait_for(|requests| requests.len() == free + 1).await;
        lock.abort_transaction().await.unwrap();
        // Nobody asks for a scan.
        fixture.wait_for(|requests| requests.len() == expired.len() + 1).await;
        assert!(daemon.stop().await.success());
        assert_eq!(daemon.count(is_kept_unmarked), 1);
        assert_eq!(fixture.receiver.total(), expired.len() + 1, "nothing twice");
    }
}

#[tokio::test]
async fn a_scan_by_hand_says_what_it_left_out() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    assert!(fixture.daemon().await.stop().await.success());
    let expired = expired_in_turn(organization, 3);
    fixture.badge_users().insert_many(&expired).await.unwrap();
    let locked = lock(&fixture.badge_users(), expired[1].get_object_id("_id").unwrap()).await;
    let outcome = fixture.outcome(&["scan"]).await;
    let result = outcome.result();
    assert!(
        result.contains("found 2 certificates, 2 deliveries: 2 delivered") && result.contains("1 left out"),
        "{result}"
    );
    drop(locked);
}
