//! Asking for an operation, and following it: what the command line does, and what a back office does with its own driver.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Document, doc};
use futures_util::TryStreamExt;

use super::executor::FINAL;
use crate::cluster::is_any_alive;
use crate::store::{Result, Store};

/// How often an operation's document is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How an operation that was followed ended, or that it waits.
#[derive(Clone, Debug)]
pub enum Followed {
    /// `done`, with its `result`.
    Done(Document),
    /// `refused`, `failed` or `cancelled`, and why.
    Ended(String),
    /// No instance is alive: it waits.
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

/// Waits until the operation has ended, or until no instance is alive to carry it out. Each time that the counts have changed,
/// `progress` is called with how many deliveries are done, and of how many.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn follow(store: &Store, id: ObjectId, mut progress: impl FnMut(i64, Option<i64>)) -> Result<Followed> {
    let (mut last, mut seen_alive) = (None, Instant::now());
    loop {
        let Some(found) = store.operations().find_one(doc! { "_id": id }).await? else {
            return Ok(Followed::Ended("somebody has removed its document".into()));
        };
        let state = found.get_str("state").unwrap_or_default();
        if FINAL.contains(&state) {
            let result = found.get_document("result").cloned().unwrap_or_default();
            return Ok(match (state, found.get_str("error")) {
                ("done", _) => Followed::Done(result),
                (state, Ok(error)) => Followed::Ended(format!("{state}: {error}")),
                (state, Err(_)) => Followed::Ended(state.to_owned()),
            });
        }
        if let Ok(counts) = found.get_document("progress") {
            let (done, of) = (counts.get_i64("done").unwrap_or(0), counts.get_i64("of").ok());
            if last.replace((done, of)) != Some((done, of)) {
                progress(done, of);
            }
        }
        if is_any_alive(store, store.database_time().await?).await? {
            seen_alive = Instant::now();
        } else if seen_alive.elapsed() > LOOK_EVERY * 5 {
            return Ok(Followed::NoInstance);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The documents of the operations that were asked for last, the latest first, `limit` at most.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn recent(store: &Store, limit: i64) -> Result<Vec<Document>> {
    let operations = store.operations();
    let find = operations.find(doc! {}).sort(doc! { "_id": -1 }).limit(limit);
    Ok(find.await?.try_collect().await?)
}
