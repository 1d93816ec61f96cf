//! Operations on deliveries that others move, settle or ask for at the same time.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;

use super::held;
use crate::fixture::{Fixture, certificate, completed_id, endpoint_key, expired_in_turn, pending_batch};
use crate::layout::{self, dead, expiry};

async fn ask(fixture: &Fixture, operation: Document) -> Bson {
    fixture.operations().insert_one(operation).await.unwrap().inserted_id
}

fn deliveries(ended: &Document) -> i64 {
    assert_eq!(ended.get_str("state").unwrap(), "done", "{ended}");
    let result = ended.get_document("result").unwrap();
    result.get_i64("deliveries").unwrap()
}

/// As `outbox/background.rs` and the recorder do.
async fn move_all(fixture: &Fixture, key: &str, from: &str, to: &str) {
    let later = DateTime::from_millis(Clock::local().timestamp_millis() + 1_000);
    let update = doc! { "$set": { "queue": format!("{key}/{to}"), "due": later }, "$inc": { "version": 1 } };
    let waiting = doc! { "state": "pending", "queue": format!("{key}/{from}") };
    fixture.outbox().update_many(waiting, update).await.unwrap();
}

#[tokio::test]
async fn a_cancellation_misses_nothing_that_is_moved_meanwhile() {
    const WAITING: i64 = 250;
    let table = [
        ("live", "background"),
        ("retry", "background"),
        ("background", "retry"),
        ("live", "retry"),
    ];
    for (place, (from, to)) in table.into_iter().enumerate() {
        let fixture = Fixture::new().await;
        let key = held(&fixture, 0).await;
        let (organization, _) = key.split_once('/').unwrap();
        let waiting = expired_in_turn(ObjectId::parse_str(organization).unwrap(), WAITING);
        let waiting = waiting.into_iter().map(|one| {
            let mut batch = pending_batch(&key, &[one]);
            batch.insert("queue", format!("{key}/{from}"));
            batch
        });
        fixture.outbox().insert_many(waiting).await.unwrap();
        let _daemon = fixture.daemon().await;
        let selections = [
            doc! { "all": true },
            doc! { "organization": organization },
            doc! { "endpoint": &key },
        ];
        let selection = selections[place % 3].clone();
        let cancel = doc! { "kind": "cancel", "selection": selection, "options": { "ratePerSecond": 200 } };
        let id = ask(&fixture, cancel).await;
        let begun = doc! { "_id": &id, "progress.done": { "$gt": 0 } };
        fixture.wait_for_count(&fixture.operations(), begun, 1).await;
        move_all(&fixture, &key, from, to).await;
        let ended = fixture.ended(&id).await;
        let left = fixture.count_deliveries(doc! { "state": "pending" }).await;
        assert_eq!((deliveries(&ended), left), (WAITING, 0), "{from} to {to}");
    }
}

#[tokio::test]
async fn a_replay_and_a_cancellation_of_the_same_share_it() {
    const DEAD: i64 = 250;
    let table = [
        ("replay", vec!["dead"], "cancel", vec!["dead"]),
        ("replay", vec!["dead"], "replay", vec!["dead"]),
        ("cancel", vec!["dead"], "cancel", vec!["dead", "pending"]),
    ];
    for (one, of_one, other, of_other) in table {
        let fixture = Fixture::new().await;
        let key = held(&fixture, 0).await;
        let letters = (0..DEAD).map(|n| dead(&key, &expiry(n)));
        fixture.outbox().insert_many(letters).await.unwrap();
        let operation = |kind, states: &Vec<&str>| doc! { "kind": kind, "selection": { "endpoint": &key, "states": states.clone() } };
        let both = [operation(one, &of_one), operation(other, &of_other)];
        let ids = fixture.operations().insert_many(both).await.unwrap().inserted_ids;
        let _daemon = fixture.daemon().await;
        let mut sums = std::collections::BTreeMap::<&str, i64>::new();
        for (place, kind) in [one, other].into_iter().enumerate() {
            *sums.entry(kind).or_default() += deliveries(&fixture.ended(&ids[&place]).await);
        }
        for (kind, state) in [("replay", "pending"), ("cancel", "cancelled")] {
            let found = fixture.count_deliveries(doc! { "state": state }).await;
            let sum = sums.get(kind).copied().unwrap_or(0);
            assert_eq!(i64::try_from(found).unwrap(), sum, "{one} and {other}: {sums:?}");
        }
        assert_eq!(sums.values().sum::<i64>(), DEAD, "{one} and {other}");
        let counted = fixture
            .statistics()
            .count_documents(doc! { "cancelled": { "$ne": 0_i64 } })
            .await;
        assert_eq!(counted.unwrap(), 0, "dead letters are counted already");
    }
}

#[tokio::test]
async fn what_is_cancelled_in_flight_and_gets_a_200_is_delivered() {
    for waiting in [1, 2, 5] {
        let fixture = Fixture::new().await.with("completions.enabled = false");
        fixture
            .receiver
            .script("/a", [Response::ok().after(Duration::from_millis(1_500))]);
        let endpoint = fixture.endpoint("/a");
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        let key = endpoint_key(organization, &endpoint);
        let batch = pending_batch(&key, &expired_in_turn(organization, waiting));
        fixture.outbox().insert_one(batch).await.unwrap();
        let _daemon = fixture.daemon().await;
        fixture.receiver.wait_for_total(1, crate::fixture::LIMIT).await.unwrap();
        let cancel = doc! { "kind": "cancel", "selection": { "endpoint": &key }, "by": "ops" };
        assert_eq!(deliveries(&fixture.operate(cancel).await), waiting);
        fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
        let cancelled = u64::try_from(waiting - 1).unwrap();
        fixture
            .wait_for_deliveries(doc! { "state": "cancelled" }, cancelled)
            .await;
        assert_eq!(fixture.receiver.total(), 1, "nothing else went out");
        let figures = doc! { "successes": 1_i64, "cancelled": waiting - 1, "failures": 0_i64 };
        fixture.wait_for_count(&fixture.statistics(), figures, 1).await;
        // What was cancelled goes out on request, and what was delivered only if it is asked for.
        let replay = doc! { "kind": "replay", "selection": { "endpoint": &key, "states": ["cancelled"] } };
        assert_eq!(deliveries(&fixture.operate(replay).await), waiting - 1);
        fixture
            .wait_for_deliveries(doc! { "state": "delivered" }, cancelled + 1)
            .await;
        assert_eq!(fixture.receiver.total(), usize::try_from(waiting).unwrap());
    }
}

/// The endpoint fails ten times: what is held then is not even probed.
#[tokio::test]
async fn an_endpoint_that_is_probed_is_held_like_any_other() {
    let fixture = Fixture::new().await;
    let failing = Response::failing(14, http::StatusCode::INTERNAL_SERVER_ERROR);
    fixture.receiver.script("/a", failing);
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let daemon = fixture.daemon().await;
    let certificates: Vec<_> = (0..12).map(|_| certificate(organization, None)).collect();
    fixture.badge_users().insert_many(&certificates).await.unwrap();
    daemon
        .wait_for(|line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("it is probed"))
        })
        .await;
    let hold = fixture
        .operate(doc! { "kind": "hold", "selection": { "endpoint": &key } })
        .await;
    assert_eq!(hold.get_str("state").unwrap(), "done", "{hold}");
    let pending = doc! { "state": "pending", "endpoint": &key };
    let before = fixture.receiver.total();
    // Longer than from one probe to the next: an award of another endpoint, sent and recorded, twice.
    let since = std::time::Instant::now();
    for n in 0.. {
        fixture
            .badge_users()
            .insert_one(certificate(other, None))
            .await
            .unwrap();
        fixture
            .wait_for(|all| all.iter().filter(|one| one.path == "/other").count() > n)
            .await;
        if since.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    let of_held = fixture.receiver.count("/a");
    assert!(of_held <= before + 1, "{of_held} instead of {before}");
    assert_eq!(fixture.count_deliveries(pending).await, 12);
    let release = fixture
        .operate(doc! { "kind": "release", "selection": { "endpoint": &key } })
        .await;
    assert_eq!(release.get_str("state").unwrap(), "done", "{release}");
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "endpoint": &key }, 12)
        .await;
    let received = fixture.receiver.requests();
    let of = |id: &String| received.iter().filter(|one| one.header("webhook-id") == id).count();
    assert!(certificates.iter().map(completed_id).all(|id| of(&id) >= 1));
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_is_held_and_switched_off_is_cancelled() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let _daemon = fixture.daemon().await;
    let hold = fixture
        .operate(doc! { "kind": "hold", "selection": { "endpoint": &key } })
        .await;
    assert_eq!(hold.get_str("state").unwrap(), "done", "{hold}");
    fixture
        .outbox()
        .insert_one(layout::batch(&key, &[expiry(1), expiry(2)]))
        .await
        .unwrap();
    let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
    fixture
        .member_configs()
        .update_one(doc! { "_ownerId": organization }, off)
        .await
        .unwrap();
    fixture.wait_for_deliveries(doc! { "state": "cancelled" }, 2).await;
    // Held while it is off, and released: nothing comes back.
    for kind in ["hold", "release"] {
        let done = fixture
            .operate(doc! { "kind": kind, "selection": { "organization": organization } })
            .await;
        assert_eq!(done.get_str("state").unwrap(), "done", "{done}");
    }
    assert_eq!(fixture.receiver.total(), 0);
    assert_eq!(fixture.count_deliveries(doc! { "state": "cancelled" }).await, 2);
}
