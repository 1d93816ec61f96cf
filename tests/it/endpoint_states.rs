//! The state documents of endpoints: kept while they say something that matters, and no longer.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use futures_util::TryStreamExt;

use crate::fixture::{Fixture, endpoint_key};
use crate::layout::{batch, before, expiry};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn states(fixture: &Fixture) -> Vec<Document> {
    let filter = doc! { "_id": { "$regex": "^endpoint/" } };
    let found = fixture.state().find(filter).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

#[tokio::test]
async fn a_start_removes_those_that_no_longer_matter() {
    let fixture = Fixture::new().await;
    let ago = |time: Duration| Bson::DateTime(before(Clock::local(), time));
    let table: [(&str, Document, bool); 8] = [
        ("slowed", doc! { "slowedUntil": ago(HOUR) }, false),
        (
            "told",
            doc! { "slowedUntil": ago(HOUR), "deadToldAt": ago(2 * HOUR) },
            false,
        ),
        // The platform is told at most once an hour.
        (
            "told-lately",
            doc! { "slowedUntil": ago(HOUR), "deadToldAt": ago(HOUR / 2) },
            true,
        ),
        ("untold", doc! { "slowedUntil": ago(HOUR), "deadUntold": 1_i64 }, true),
        ("served", doc! { "servedSince": ago(DAY) }, true),
        ("served-long", doc! { "servedSince": ago(100 * DAY) }, false),
        ("waiting", doc! { "waitingSince": ago(100 * DAY) }, true),
        (
            "paused",
            doc! { "slowedUntil": DateTime::from_millis(i64::MAX / 2) },
            true,
        ),
    ];
    let id = |name: &str| format!("endpoint/{}/{name}", ObjectId::from_bytes([1; 12]));
    for (name, fields, _) in &table {
        let mut state = doc! { "_id": id(name) };
        state.extend(fields.clone());
        fixture.state().insert_one(state).await.unwrap();
    }
    let _daemon = fixture.daemon().await;
    let left: Vec<_> = states(&fixture).await;
    let left: Vec<_> = left
        .iter()
        .map(|state| state.get_str("_id").unwrap().to_owned())
        .collect();
    let mut expected: Vec<_> = table.iter().filter(|row| row.2).map(|row| id(row.0)).collect();
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn an_endpoint_that_is_switched_off_waits_no_more() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let hold = doc! { "_id": format!("hold/endpoint/{key}"), "by": "a test", "until": null };
    fixture.state().insert_one(hold).await.unwrap();
    fixture.outbox().insert_one(batch(&key, &[expiry(1)])).await.unwrap();
    let mut daemon = fixture.daemon().await;
    let state = doc! { "_id": format!("endpoint/{key}") };
    let waiting = doc! { "_id": format!("endpoint/{key}"), "waitingSince": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), waiting.clone(), 1).await;
    let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
    let of = doc! { "_ownerId": organization };
    fixture.member_configs().update_one(of, off).await.unwrap();
    fixture.wait_for_deliveries(doc! { "state": "cancelled" }, 1).await;
    fixture.wait_for_count(&fixture.state(), waiting, 0).await;
    assert!(daemon.stop().await.success());
    let _daemon = fixture.daemon().await;
    assert_eq!(fixture.state().count_documents(state).await.unwrap(), 0);
}
