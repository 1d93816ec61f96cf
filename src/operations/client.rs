//! Asking for an operation, and following it: what the command line does, and what a back office does with its own driver.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;

use super::executor::FINAL;
use crate::cluster::ALIVE;
use crate::store::{Result, Store};

/// How often is looked how far an operation has come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What came of an operation.
#[derive(Clone, Debug)]
pub enum Followed {
    /// `done`, with its `result`.
    Done(Document),
    /// `refused`, `failed` or `cancelled`, and why.
    Ended(String),
    /// No instance is alive.
    NoInstance,
}

/// Inserts an operation. `document` has no `_id` yet; its shape is documented in docs/operations.md.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn insert(store: &Store, mut document: Document) -> Result<ObjectId> {
    let id = ObjectId::new();
    document.insert("_id", id);
    store.operations().insert_one(document).await?;
    Ok(id)
}

/// Waits until the operation has ended, or until nobody is there to carry it out. `progress` hears how many deliveries are done and
/// of how many, each time that has changed.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn follow(store: &Store, id: ObjectId, mut progress: impl FnMut(i64, Option<i64>)) -> Result<Followed> {
    let (mut last, mut seen_alive) = (None, Instant::now());
    loop {
        let found = store
            .operations()
            .find_one(doc! { "_id": id })
            .await?
            .unwrap_or_default();
        let state = found.get_str("state").unwrap_or_default();
        if FINAL.contains(&state) {
            let result = found.get_document("result").cloned().unwrap_or_default();
            return Ok(match (state, found.get_str("error")) {
                ("done", _) => Followed::Done(result),
                (state, Ok(error)) => Followed::Ended(format!("{state}: {error}")),
                (state, Err(_)) => Followed::Ended(state.to_owned()),
            });
        }
        if let Ok(now) = found.get_document("progress") {
            let now = (now.get_i64("done").unwrap_or(0), now.get_i64("of").ok());
            if last.replace(now) != Some(now) {
                progress(now.0, now.1);
            }
        }
        if is_anyone_alive(store).await? {
            seen_alive = Instant::now();
        } else if seen_alive.elapsed() > LOOK_EVERY * 5 {
            return Ok(Followed::NoInstance);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn is_anyone_alive(store: &Store) -> Result<bool> {
    let hello = store.hello().await?;
    let now = *hello.get_datetime("localTime").map_err(mongodb::error::Error::custom)?;
    let alive = now.timestamp_millis() - i64::try_from(ALIVE.as_millis()).unwrap_or(0);
    let filter = doc! {
        "_id": { "$gte": "instance/", "$lt": "instance0" }, "seenAt": { "$gte": DateTime::from_millis(alive) },
    };
    Ok(store.state().find_one(filter).await?.is_some())
}

/// The operations that were asked for last, the latest first, `limit` at most: as their documents are.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn recent(store: &Store, limit: i64) -> Result<Vec<Document>> {
    let operations = store.operations();
    let find = operations.find(doc! {}).sort(doc! { "_id": -1 }).limit(limit);
    Ok(find.await?.try_collect().await?)
}
