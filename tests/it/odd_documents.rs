//! Documents of the outbox to which somebody else has written: one of them stops no other.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use http::StatusCode;
use serde_json::Value;

use crate::fixture::{Fixture, LIMIT, endpoint_key, expired_id, expired_in_turn, is_scan, pending_batch};
use crate::layout;

const ALONE: &str = "completions.enabled = false";

fn says(text: &str) -> impl Fn(&Value) -> bool {
    move |line| line["message"].as_str().is_some_and(|message| message.contains(text))
}

/// An organization with an endpoint at `/a`, and under which name the outbox knows that.
async fn organization(fixture: &Fixture, enabled: bool) -> (ObjectId, String) {
    let mut endpoint = fixture.endpoint("/a");
    endpoint.insert("enabled", enabled);
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    (organization, endpoint_key(organization, &endpoint))
}

#[tokio::test]
async fn a_batch_by_whose_keys_it_can_not_be_found_is_set_aside_and_those_behind_it_go_out() {
    let fixture = Fixture::new().await.with(ALONE);
    let (organization, key) = organization(&fixture, true).await;
    let pending = || pending_batch(&key, &expired_in_turn(organization, 2));
    let odd: [(&str, Option<Bson>); 9] = [
        ("queue", Some(5.into())),
        ("queue", Some("live".into())),
        ("queue", Some(format!("{key}/later").into())),
        ("queue", None),
        ("due", Some("soon".into())),
        ("due", Some(0.into())),
        ("due", None),
        ("_id", Some(ObjectId::new().into())),
        ("_id", Some(7.into())),
    ];
    for (field, value) in &odd {
        let mut batch = pending();
        batch.remove(field);
        batch.extend(value.clone().map(|value| ((*field).to_owned(), value)));
        fixture.outbox().insert_one(batch).await.unwrap();
    }
    fixture.outbox().insert_one(pending()).await.unwrap();
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(2, LIMIT).await.unwrap();
    let set_aside = doc! { "state": "rejected", "reason": { "$regex": "^can't be read" }, "version": 1 };
    fixture
        .wait_for_count(&fixture.outbox(), set_aside, odd.len() as u64)
        .await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2).await;
    assert!(daemon.stop().await.success());
    assert_eq!(daemon.count(says("it is set aside")), odd.len(), "a line for each");
}

/// What somebody may have put in the place of a version; `None`: nothing.
fn odd_versions() -> [Option<Bson>; 4] {
    [None, Some(1_i64.into()), Some(1.0.into()), Some("1".into())]
}

fn with_version(mut document: Document, version: Option<Bson>) -> Document {
    document.remove("version");
    document.extend(version.map(|version| ("version".to_owned(), version)));
    document
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_is_off_is_cancelled_whatever_its_version() {
    let fixture = Fixture::new().await.with(ALONE);
    let (organization, key) = organization(&fixture, false).await;
    let pending = || pending_batch(&key, &expired_in_turn(organization, 2));
    for version in odd_versions() {
        let batch = with_version(pending(), version);
        fixture.outbox().insert_one(batch).await.unwrap();
    }
    let mut uncounted = pending();
    uncounted.insert("open", "two");
    fixture
        .outbox()
        .insert_many([uncounted, pending(), pending()])
        .await
        .unwrap();
    let mut daemon = fixture.daemon().await;
    let cancelled = doc! { "state": "cancelled", "version": { "$type": "int" } };
    fixture.wait_for_count(&fixture.outbox(), cancelled, 7).await;
    assert!(daemon.stop().await.success());
    assert_eq!(daemon.count(says("version")), 1);
}

#[tokio::test]
async fn dead_letters_go_out_again_by_themselves_and_on_request_whatever_their_version() {
    let fixture = Fixture::new().await.with(ALONE);
    let (_, key) = organization(&fixture, true).await;
    let letters = || odd_versions().into_iter().chain([Some(1.into())]).zip(0..);
    for (version, n) in letters() {
        let letter = with_version(layout::dead(&key, &layout::expiry(n)), version);
        fixture.outbox().insert_one(letter).await.unwrap();
    }
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(5, LIMIT).await.unwrap();
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 5).await;
    assert!(daemon.stop().await.success());
    for (version, n) in letters() {
        let of = doc! { "_id": format!("{key}/{}", layout::expiry(n)) };
        let set = version.map_or_else(
            || doc! { "$unset": { "version": 1 } },
            |version| doc! { "$set": { "version": version } },
        );
        fixture.outbox().update_one(of, set).await.unwrap();
    }
    let _daemon = fixture.daemon().await;
    let replay = ["replay", "--endpoint", &key, "--state", "delivered"];
    let outcome = fixture.outcome(&replay).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    fixture.receiver.wait_for_total(10, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_batch_whose_version_is_lost_while_it_is_in_flight_holds_up_no_result_of_others() {
    let fixture = Fixture::new().await.with(ALONE);
    let (organization, key) = organization(&fixture, true).await;
    let other = fixture.endpoint("/other");
    let other_key = endpoint_key(fixture.organization(vec![other.clone()]).await, &other);
    let slow = Response::ok().after(Duration::from_secs(1));
    fixture.receiver.script("/a", vec![slow; odd_versions().len() * 2]);
    let batches: Vec<_> = odd_versions()
        .map(|_| pending_batch(&key, &expired_in_turn(organization, 2)))
        .into();
    fixture.outbox().insert_many(&batches).await.unwrap();
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    for (batch, version) in batches.into_iter().zip(odd_versions()) {
        let of = doc! { "_id": batch.get_str("_id").unwrap() };
        fixture
            .outbox()
            .replace_one(of, with_version(batch, version))
            .await
            .unwrap();
    }
    let batch = pending_batch(&other_key, &expired_in_turn(organization, 2));
    fixture.outbox().insert_one(batch).await.unwrap();
    let recorded = doc! { "state": "delivered", "endpoint": other_key };
    fixture.wait_for_deliveries(recorded, 2).await;
    let set_aside = doc! { "state": "rejected", "reason": { "$regex": "version" } };
    fixture.wait_for_count(&fixture.outbox(), set_aside, 4).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_delivery_that_fails_is_recorded_whatever_an_older_copy_of_it_looks_like() {
    let fixture = Fixture::new().await.with(ALONE);
    let (organization, key) = organization(&fixture, true).await;
    fixture
        .receiver
        .script("/a", Response::failing(4, StatusCode::SERVICE_UNAVAILABLE));
    let certificates = expired_in_turn(organization, 4);
    let batch = pending_batch(&key, &certificates);
    fixture.outbox().insert_one(&batch).await.unwrap();
    for (certificate, version) in certificates.iter().zip(odd_versions()) {
        let older =
            doc! { "_id": format!("{key}/{}", expired_id(certificate)), "state": "rejected", "history": "none" };
        fixture.outbox().insert_one(with_version(older, version)).await.unwrap();
    }
    let mut daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 4).await;
    let recorded = doc! { "_id": batch.get_str("_id").unwrap(), "open": 0 };
    fixture.wait_for_count(&fixture.outbox(), recorded, 1).await;
    assert_eq!(fixture.receiver.total(), 8, "each once more");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_certificate_is_told_of_although_an_odd_document_has_the_id_of_its_delivery() {
    let fixture = Fixture::new().await.with(ALONE);
    let (organization, key) = organization(&fixture, true).await;
    let odd: [Document; 3] = [
        doc! {},
        doc! { "endpoint": &key, "deliveries": "none" },
        doc! { "endpoint": 5, "deliveries": [] },
    ];
    for (certificate, odd) in expired_in_turn(organization, 3).iter().zip(&odd) {
        let mut odd = odd.clone();
        odd.insert("_id", format!("{key}/{}", expired_id(certificate)));
        fixture.outbox().insert_one(odd).await.unwrap();
        fixture.badge_users().insert_one(certificate).await.unwrap();
        let mut daemon = fixture.daemon().await;
        daemon.wait_for(is_scan).await;
        let recorded = doc! { "state": "delivered" };
        fixture.wait_for_count(&fixture.outbox(), recorded, 1).await;
        fixture.outbox().delete_many(doc! {}).await.unwrap();
        assert!(daemon.stop().await.success());
    }
    assert_eq!(fixture.receiver.total(), 3);
}

#[tokio::test]
async fn a_batch_whose_open_deliveries_are_miscounted_is_delivered_and_holds_up_nothing() {
    let fixture = Fixture::new().await.with(ALONE);
    let (organization, key) = organization(&fixture, true).await;
    let result = doc! { "at": Clock::local(), "status": 200, "ms": 1 };
    for (results, open) in [(2, 2), (0, 9), (1, 0), (0, 1)] {
        let mut batch = pending_batch(&key, &expired_in_turn(organization, 2));
        batch.extend(doc! { "open": open, "results": vec![result.clone(); results] });
        fixture.outbox().insert_one(batch).await.unwrap();
    }
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(5, LIMIT).await.unwrap();
    for (state, count) in [("delivered", 3), ("rejected", 1), ("pending", 0)] {
        fixture
            .wait_for_count(&fixture.outbox(), doc! { "state": state }, count)
            .await;
    }
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 5, "what was open, each once");
}

/// What has ended is removed after the retention; what waits must not be.
#[tokio::test]
async fn a_retry_that_meets_an_older_copy_that_had_ended_waits_like_any_other() {
    let fixture = Fixture::new().await.with(ALONE);
    let (_, key) = organization(&fixture, true).await;
    let [first, second] = [layout::expiry(1), layout::expiry(2)];
    let mut copy = layout::dead(&key, &first);
    copy.insert("redrivable", false);
    let batch = layout::batch(&key, &[first, second]);
    fixture.outbox().insert_many([copy, batch]).await.unwrap();
    fixture
        .receiver
        .script("/a", [Response::status(StatusCode::SERVICE_UNAVAILABLE)]);
    let mut daemon = fixture.daemon().await;
    let waits = doc! { "state": "pending", "attempts": { "$gte": 1 }, "queue": format!("{key}/retry") };
    fixture.wait_for_count(&fixture.outbox(), waits.clone(), 2).await;
    let mut ended = waits;
    ended.insert(
        "$or",
        [
            doc! { "finishedAt": { "$exists": true } },
            doc! { "reason": { "$exists": true } },
        ],
    );
    assert_eq!(fixture.outbox().count_documents(ended).await.unwrap(), 0);
    assert!(daemon.stop().await.success());
}
