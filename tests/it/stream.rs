//! The change stream through its accidents: no award is missed, and no accident becomes a loop.

mod position;
mod post_images;

use std::collections::HashSet;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Options, ReplicaSet};
use mongodb::Collection;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, certificate, completed_id};

/// Inserts that many awards and returns their ids as receivers see them.
async fn award(badge_users: &Collection<Document>, organization: ObjectId, count: usize) -> HashSet<String> {
    let documents: Vec<_> = (0..count).map(|_| certificate(organization, None)).collect();
    badge_users.insert_many(&documents).await.unwrap();
    documents.iter().map(completed_id).collect()
}

/// Waits until each of these was received.
async fn received(fixture: &Fixture, ids: &HashSet<String>) {
    fixture
        .wait_for(|requests| {
            let heard: HashSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
            ids.iter().all(|id| heard.contains(&**id))
        })
        .await;
}

/// A daemon that watches, with one award delivered, and whom the awards are of.
async fn watching() -> (Fixture, ObjectId, Daemon) {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    received(&fixture, &award(&fixture.badge_users(), organization, 1).await).await;
    (fixture, organization, daemon)
}

fn is_afresh(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    line["level"] == "WARN" && message.contains("starting afresh")
}

fn is_caught_up(line: &Value) -> bool {
    line["message"] == "caught up with missed completions"
}

/// After that many accidents the stream takes the next award, and each accident was told and caught up with once.
async fn goes_on(fixture: &Fixture, organization: ObjectId, daemon: &Daemon, accidents: usize) {
    daemon.wait_for_nth(is_caught_up, accidents).await;
    received(fixture, &award(&fixture.badge_users(), organization, 1).await).await;
    assert_eq!(daemon.count(is_afresh), accidents);
    assert_eq!(daemon.count(is_caught_up), accidents);
}

async fn position(fixture: &Fixture) -> Document {
    fixture
        .state()
        .find_one(doc! { "_id": "watch" })
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_first_start_begins_now() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    award(&fixture.badge_users(), organization, 1).await;
    let mut daemon = fixture.daemon().await;
    received(&fixture, &award(&fixture.badge_users(), organization, 1).await).await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 1);
}

#[tokio::test]
async fn awards_made_while_the_daemon_is_down_arrive_after_its_start() {
    let (fixture, organization, mut daemon) = watching().await;
    assert!(daemon.stop().await.success());
    let mut awards = award(&fixture.badge_users(), organization, 50).await;
    let mut daemon = fixture.daemon().await;
    awards.extend(award(&fixture.badge_users(), organization, 10).await);
    received(&fixture, &awards).await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 61, "each once");
}

#[tokio::test]
async fn the_position_of_a_quiet_collection_keeps_moving() {
    let fixture = Fixture::new().await;
    let _daemon = fixture.daemon().await;
    let saved = doc! { "_id": "watch", "token": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), saved, 1).await;
    let before = position(&fixture).await;
    let (token, at) = (
        before.get_document("token").unwrap(),
        before.get_datetime("at").unwrap(),
    );
    fixture.database.collection("other").insert_one(doc! {}).await.unwrap();
    let moved = doc! { "_id": "watch", "token._data": { "$gt": token.get_str("_data").unwrap() }, "at": { "$gt": at } };
    fixture.wait_for_count(&fixture.state(), moved, 1).await;
}

/// A position that is broken while the daemon is down: given up once, and the awards made meanwhile are found by query.
async fn is_given_up(broken: impl FnOnce(&mut Document)) {
    let (fixture, organization, mut daemon) = watching().await;
    assert!(daemon.stop().await.success());
    let mut position = position(&fixture).await;
    broken(&mut position);
    fixture
        .state()
        .replace_one(doc! { "_id": "watch" }, position)
        .await
        .unwrap();
    let missed = award(&fixture.badge_users(), organization, 5).await;

    let mut daemon = fixture.daemon().await;
    received(&fixture, &missed).await;
    goes_on(&fixture, organization, &daemon, 1).await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 7, "each once");
}

#[tokio::test]
async fn a_token_that_is_none_is_given_up_once_and_caught_up_by_query() {
    for data in [Bson::from("token"), Bson::from("82"), Bson::from(""), Bson::from(7)] {
        let token = doc! { "token": { "_data": data }, "at": Clock::local() };
        is_given_up(|position| position.extend(token)).await;
    }
}

#[tokio::test]
async fn a_position_that_cannot_be_read_is_given_up_once_and_caught_up_by_query() {
    is_given_up(|position| position.extend(doc! { "token": 7, "at": "yesterday" })).await;
}

#[tokio::test]
async fn a_position_that_fell_out_of_the_oplog_is_given_up_once_and_caught_up_by_query() {
    let options = Options {
        oplog_mb: 1,
        checkpoint_s: 1,
        ..Options::default()
    };
    let set = ReplicaSet::start(options).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    received(&fixture, &award(&fixture.badge_users(), organization, 1).await).await;
    assert!(daemon.stop().await.success());
    let missed = award(&fixture.badge_users(), organization, 5).await;
    roll_over(&fixture).await;

    let mut daemon = fixture.daemon().await;
    received(&fixture, &missed).await;
    goes_on(&fixture, organization, &daemon, 1).await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 7, "each once");
}

/// Writes until the oplog holds nothing of what it holds now.
async fn roll_over(fixture: &Fixture) {
    let oplog = fixture
        .database
        .client()
        .database("local")
        .collection::<Document>("oplog.rs");
    let newest = oplog
        .find_one(doc! {})
        .sort(doc! { "$natural": -1 })
        .await
        .unwrap()
        .unwrap();
    let filler = fixture.database.collection("filler");
    loop {
        let oldest = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await;
        // It may be removed while it is read.
        let Ok(Some(oldest)) = oldest else { continue };
        if oldest.get_timestamp("ts").unwrap() > newest.get_timestamp("ts").unwrap() {
            return;
        }
        filler.insert_one(doc! { "text": "x".repeat(12 << 20) }).await.unwrap();
    }
}

#[tokio::test]
async fn a_collection_that_is_dropped_and_created_again_is_watched_on() {
    let (fixture, organization, daemon) = watching().await;
    for accidents in 1..=2 {
        fixture.badge_users().drop().await.unwrap();
        received(&fixture, &award(&fixture.badge_users(), organization, 5).await).await;
        goes_on(&fixture, organization, &daemon, accidents).await;
    }
    assert_eq!(fixture.receiver.total(), 13, "each once");
}

/// As a restore does it: what comes in by renaming was never inserted as far as the stream knows.
#[tokio::test]
async fn a_collection_that_is_renamed_away_and_replaced_by_another_is_caught_up_by_query() {
    let (fixture, organization, daemon) = watching().await;
    rename(&fixture, "badgeusers", "old").await;
    goes_on(&fixture, organization, &daemon, 1).await;
    fixture.badge_users().drop().await.unwrap();
    goes_on(&fixture, organization, &daemon, 2).await;
    fixture.badge_users().drop().await.unwrap();
    daemon.wait_for_nth(is_caught_up, 3).await;

    let missed = award(&fixture.database.collection("restored"), organization, 5).await;
    rename(&fixture, "restored", "badgeusers").await;
    received(&fixture, &missed).await;
    goes_on(&fixture, organization, &daemon, 4).await;
}

async fn rename(fixture: &Fixture, from: &str, to: &str) {
    let name = |collection| format!("{}.{collection}", fixture.database.name());
    let command = doc! { "renameCollection": name(from), "to": name(to) };
    fixture
        .database
        .client()
        .database("admin")
        .run_command(command)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_award_too_large_for_a_delivery_is_rejected_and_the_stream_goes_on() {
    let (fixture, organization, daemon) = watching().await;
    let mut huge = certificate(organization, None);
    huge.insert("ruleData", "x".repeat((16 << 20) - 400));
    fixture.badge_users().insert_one(&huge).await.unwrap();
    let id = format!("rejected/{}", completed_id(&huge));
    fixture
        .wait_for_deliveries(doc! { "_id": id, "state": "rejected" }, 1)
        .await;
    received(&fixture, &award(&fixture.badge_users(), organization, 1).await).await;
    assert_eq!(daemon.count(is_afresh), 0);
}

/// An event holds the `_id` twice more, in its key and in its token: the stream can't read past this one.
#[tokio::test]
async fn an_award_too_large_for_an_event_is_found_by_query_and_rejected_and_the_stream_goes_on() {
    let (fixture, organization, daemon) = watching().await;
    let mut huge = certificate(organization, None);
    huge.insert("_id", "x".repeat(2 << 20));
    huge.insert("ruleData", "x".repeat(11 << 20));
    fixture.badge_users().insert_one(&huge).await.unwrap();
    let missed = award(&fixture.badge_users(), organization, 5).await;
    received(&fixture, &missed).await;
    let rejected = doc! { "state": "rejected", "reason": { "$regex": "^its `_id` has 2097152 bytes" } };
    fixture.wait_for_deliveries(rejected, 1).await;
    goes_on(&fixture, organization, &daemon, 1).await;
}

#[tokio::test]
async fn a_position_that_bears_the_number_of_no_lease_is_watched_on() {
    let (fixture, organization, mut daemon) = watching().await;
    for number in [Bson::from(i64::MAX), Bson::from(9e18)] {
        let update = doc! { "$set": { "lease": number } };
        fixture
            .state()
            .update_one(doc! { "_id": "watch" }, update)
            .await
            .unwrap();
        let awards = award(&fixture.badge_users(), organization, 1).await;
        received(&fixture, &awards).await;
    }
    assert!(daemon.stop().await.success());
}
