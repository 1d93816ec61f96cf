//! Waiting for MongoDB: a failure counts as progress, and a refusal is no outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use certhookd::store::{Kind, Store, with_progress};
use tokio::sync::Notify;

use super::fixture::Fixture;

async fn find(store: &Store) -> certhookd::store::Result<()> {
    store
        .database()
        .collection::<Document>("rows")
        .find_one(doc! {})
        .await?;
    Ok(())
}

#[tokio::test]
async fn each_failure_of_an_outage_is_progress_of_the_loop_that_waits() {
    let client = Fixture::new().await.client;
    let uri = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100";
    let fixture = Fixture::over(uri, client).await;
    let (reports, reported) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let report = {
        let (reports, reported) = (Arc::clone(&reports), Arc::clone(&reported));
        move || {
            reports.fetch_add(1, Ordering::Relaxed);
            reported.notify_one();
        }
    };
    let store = fixture.store.clone();
    let waiting = tokio::spawn(with_progress(report, async move {
        store.persist("find", || find(&store)).await
    }));
    let enough = async {
        while reports.load(Ordering::Relaxed) < 3 {
            reported.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), enough).await.unwrap();
    assert!(fixture.store.outage().lasts().is_some());
    fixture.stop.cancel();
    assert!(waiting.await.unwrap().is_err(), "stopped");
}

#[tokio::test]
async fn conflicts_and_refusals_are_tried_again_and_are_no_outage() {
    let fixture = Fixture::new().await;
    let (store, rows) = (&fixture.store, fixture.of_store("rows"));
    rows.insert_one(bson::rawdoc! { "_id": 1 }).await.unwrap();
    let mut holder = store.begin(certhookd::store::Writer::Recorder).await.unwrap();
    let update = certhookd::store::update_row(bson::rawdoc! { "_id": 1 }, bson::rawdoc! { "$inc": { "n": 1 } }, false);
    holder.update("rows", [&update].into_iter()).await.unwrap();
    let calls = AtomicUsize::new(0);
    let called = Notify::new();
    let write = || async {
        calls.fetch_add(1, Ordering::Relaxed);
        called.notify_one();
        let mut transaction = store.begin(certhookd::store::Writer::Source).await?;
        let written = transaction.update("rows", [&update].into_iter()).await;
        match written {
            Ok(_) => transaction.commit().await,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Conflict);
                transaction.abort().await;
                Err(error)
            }
        }
    };
    let free = async {
        while calls.load(Ordering::Relaxed) < 3 {
            called.notified().await;
        }
        assert!(store.outage().lasts().is_none());
        holder.abort().await;
    };
    let (written, ()) = tokio::join!(store.persist("write", write), free);
    written.unwrap();
    let found = fixture.collection("rows").find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(found, doc! { "_id": 1, "n": 1 });
}
