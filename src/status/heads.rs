//! The first delivery of each endpoint's queue, and its latest dead letter, each with how many there are.

use std::collections::HashMap;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::options::Hint;
use serde::Serialize;

use super::{instant, number, rfc3339, text};
use crate::model::EndpointKey;
use crate::platform::Directory;
use crate::store::{Result, Store};

/// One delivery that stands for those of its endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// The organization's `_ownerId`.
    pub owner: String,
    /// The endpoint's `_id`.
    pub endpoint: String,
    /// What the organization calls it.
    pub name: String,
    /// How many there are of this endpoint.
    pub count: i64,
    /// The event's type.
    pub event: String,
    /// Attempts so far.
    pub attempts: i64,
    /// When it is due, or when it died.
    #[serde(serialize_with = "rfc3339")]
    pub at: DateTime,
    /// Why it is dead.
    pub reason: String,
    /// What failed last.
    pub error: String,
}

/// The latest dead letter of each endpoint, the latest of all first.
pub(super) async fn dead(store: &Store, directory: &Directory) -> Result<Vec<Head>> {
    let mut heads = heads(store, directory, "dead", doc! { "endpoint": -1, "finishedAt": -1 }).await?;
    heads.sort_by_key(|head| std::cmp::Reverse(head.at));
    Ok(heads)
}

/// The next delivery of each endpoint, the next of all first.
pub(super) async fn pending(store: &Store, directory: &Directory) -> Result<Vec<Head>> {
    let mut heads = heads(store, directory, "pending", doc! { "endpoint": 1, "due": 1 }).await?;
    heads.sort_by_key(|head| head.at);
    Ok(heads)
}

/// The first of each endpoint in that order of the state's index: a distinct scan, which fetches no other document.
async fn heads(store: &Store, directory: &Directory, state: &str, order: Document) -> Result<Vec<Head>> {
    let at = if state == "dead" { "$finishedAt" } else { "$due" };
    let mut group = doc! { "_id": "$endpoint", "at": { "$first": at } };
    for field in ["eventType", "attempts", "reason", "lastError"] {
        group.insert(field, doc! { "$first": format!("${field}") });
    }
    let pipeline = [doc! { "$sort": order }, doc! { "$group": group }];
    let mut cursor = store.deliveries().aggregate(pipeline).hint(hint(state)).await?;
    let (counts, mut heads) = (counts(store, state).await?, Vec::new());
    while let Some(row) = cursor.try_next().await? {
        let key = EndpointKey::from_stored(row.get_str("_id").unwrap_or_default());
        let Some(at) = instant(&row, "at") else { continue };
        heads.push(Head {
            count: counts.get(key.as_str()).copied().unwrap_or(1),
            owner: key.owner().to_owned(),
            endpoint: key.endpoint().to_owned(),
            name: directory.name(&key),
            event: text(&row, "eventType"),
            attempts: number(&row, "attempts"),
            at,
            reason: text(&row, "reason"),
            error: text(&row, "lastError"),
        });
    }
    Ok(heads)
}

/// How many each endpoint has, by the index alone.
async fn counts(store: &Store, state: &str) -> Result<HashMap<String, i64>> {
    let group = doc! { "$group": { "_id": "$endpoint", "count": { "$sum": 1 } } };
    let mut cursor = store.deliveries().aggregate([group]).hint(hint(state)).await?;
    let mut counts = HashMap::new();
    while let Some(row) = cursor.try_next().await? {
        counts.insert(text(&row, "_id"), number(&row, "count"));
    }
    Ok(counts)
}

fn hint(state: &str) -> Hint {
    Hint::Name(state.into())
}
