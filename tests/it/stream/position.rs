//! What becomes of the stream when somebody deletes or breaks what `webhook_state` holds of it.

use bson::{Document, doc};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{award, goes_on, is_afresh, received, watching};
use crate::cluster::has_lease;
use crate::fixture::{Daemon, Fixture};

fn is_missed(line: &Value) -> bool {
    line["level"] == "WARN"
        && line["message"]
            .as_str()
            .is_some_and(|text| text.contains("was deleted"))
}

async fn is_saved(fixture: &Fixture) {
    let saved = doc! { "_id": "watch", "token._data": { "$type": "string" }, "at": { "$type": "date" } };
    fixture.wait_for_count(&fixture.state(), saved, 1).await;
}

async fn delete(fixture: &Fixture, id: &str) {
    let deleted = fixture.state().delete_one(doc! { "_id": id }).await.unwrap();
    assert_eq!(deleted.deleted_count, 1);
}

/// Awards of this organization and of another one arrive.
async fn delivers(fixture: &Fixture, daemon: &Daemon, organization: bson::oid::ObjectId) {
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let is_read = |line: &Value| line["message"] == "endpoints read" && line["organization"] == other.to_hex();
    daemon.wait_for(is_read).await;
    let mut awards = award(&fixture.badge_users(), organization, 5).await;
    awards.extend(award(&fixture.badge_users(), other, 5).await);
    received(fixture, &awards).await;
}

#[tokio::test]
async fn a_position_that_is_deleted_while_the_daemon_runs_is_written_anew_and_told_once() {
    let (fixture, organization, mut daemon) = watching().await;
    is_saved(&fixture).await;
    delete(&fixture, "watch").await;
    daemon.wait_for(is_missed).await;
    is_saved(&fixture).await;
    delivers(&fixture, &daemon, organization).await;
    // What it wrote anew is good for the next one.
    daemon.signal(Signal::SIGKILL);
    daemon.ended().await;
    let missed = award(&fixture.badge_users(), organization, 5).await;
    let next = fixture.daemon().await;
    received(&fixture, &missed).await;
    assert_eq!((daemon.count(is_missed), daemon.count(is_afresh)), (1, 0));
    assert_eq!((next.count(is_missed), next.count(is_afresh)), (0, 0));
}

#[tokio::test]
async fn a_position_that_is_deleted_while_no_daemon_runs_is_made_up_for_by_query() {
    let (fixture, organization, mut daemon) = watching().await;
    assert!(daemon.stop().await.success());
    delete(&fixture, "watch").await;
    let missed = award(&fixture.badge_users(), organization, 5).await;
    let mut daemon = fixture.daemon().await;
    received(&fixture, &missed).await;
    goes_on(&fixture, organization, &daemon, 1).await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 7, "each once");
}

/// Nothing but the outbox tells that anybody has watched before.
#[tokio::test]
async fn a_state_that_is_dropped_while_no_daemon_runs_is_made_up_for_by_query() {
    let (fixture, organization, mut daemon) = watching().await;
    assert!(daemon.stop().await.success());
    fixture.state().drop().await.unwrap();
    let missed = award(&fixture.badge_users(), organization, 5).await;
    let daemon = fixture.daemon().await;
    received(&fixture, &missed).await;
    goes_on(&fixture, organization, &daemon, 1).await;
    assert_eq!(fixture.receiver.total(), 7, "each once");
}

/// Breaks fields of a document while the daemon runs, and has another daemon follow.
async fn is_mended(id: &str, broken: Document) {
    let (fixture, organization, mut daemon) = watching().await;
    is_saved(&fixture).await;
    fixture
        .state()
        .update_one(doc! { "_id": id }, doc! { "$set": &broken })
        .await
        .unwrap();
    is_saved(&fixture).await;
    delivers(&fixture, &daemon, organization).await;
    assert!(daemon.stop().await.success());
    let missed = award(&fixture.badge_users(), organization, 5).await;
    let mut daemon = fixture.daemon().await;
    received(&fixture, &missed).await;
    assert_eq!(daemon.count(is_afresh), 0, "{broken}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_position_that_is_broken_while_the_daemon_runs_is_written_anew() {
    let broken =
        doc! { "token": 7, "after": "token", "time": "now", "at": "yesterday", "lease": "mine", "steps": "many" };
    is_mended("watch", broken).await;
}

#[tokio::test]
async fn a_lease_that_is_broken_while_the_daemon_runs_is_taken_anew() {
    is_mended("lease/source", doc! { "number": "many", "since": 7 }).await;
    is_mended("lease/source", doc! { "holder": ["me"], "number": 1.5 }).await;
}

/// Its number says which position is the later one.
#[tokio::test]
async fn a_lease_or_a_whole_state_that_is_deleted_while_the_daemon_runs_stops_no_award() {
    let (fixture, organization, mut daemon) = watching().await;
    for _ in 0..2 {
        assert!(daemon.stop().await.success());
        daemon = fixture.daemon().await;
    }
    is_saved(&fixture).await;
    delete(&fixture, "lease/source").await;
    daemon.wait_for(has_lease).await;
    delivers(&fixture, &daemon, organization).await;
    fixture.state().drop().await.unwrap();
    daemon.wait_for_nth(has_lease, 2).await;
    delivers(&fixture, &daemon, organization).await;
    assert_eq!(daemon.count(is_afresh), 0);
}
