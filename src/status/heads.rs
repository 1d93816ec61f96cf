//! The next delivery of each endpoint, and its latest dead letter, each with how many there are.

use std::collections::{HashMap, HashSet};

use bson::{DateTime, RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::queues::First;
use super::{hint, instant, number, rfc3339, text};
use crate::model::EndpointKey;
use crate::platform::Directory;
use crate::store::{Result, Store};

/// This many endpoints that have something pending are shown, because a document of each must be read.
pub const NEXT: usize = 200;

/// The first delivery of an endpoint's, and how many there are.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// The organization's `_ownerId`.
    pub organization: String,
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
    /// Whether a dead letter goes out again by itself when its endpoint succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redrivable: Option<bool>,
    /// Why it is dead.
    pub reason: String,
    /// What failed last.
    pub error: String,
}

/// The latest dead letter of each endpoint, the latest of all first: a distinct scan, which reads no other document.
pub(super) async fn dead(store: &Store, directory: &Directory) -> Result<Vec<Head>> {
    let first = |field: &str| doc! { "$first": format!("${field}") };
    let group = doc! {
        "_id": "$endpoint", "at": first("finishedAt"), "types": first("deliveries.type"), "attempts": first("attempts"),
        "reason": first("reason"), "lastError": first("lastError"), "redrivable": first("redrivable"),
    };
    let pipeline = [
        doc! { "$sort": { "endpoint": -1, "finishedAt": -1 } },
        doc! { "$group": group },
    ];
    let mut cursor = store.outbox().aggregate(pipeline).hint(hint("dead")).await?;
    let counts = dead_letters(store).await?;
    let mut heads = Vec::new();
    while let Some(row) = cursor.try_next().await? {
        let key = EndpointKey::from_stored(&text(&row, "_id"));
        let Some(at) = instant(&row, "at") else { continue };
        let event = row.get_array("types").ok().and_then(|types| types.first()?.as_str());
        heads.push(Head {
            count: counts.get(key.as_str()).copied().unwrap_or(1),
            organization: key.organization().to_owned(),
            endpoint: key.endpoint().to_owned(),
            name: directory.name(&key),
            event: event.unwrap_or_default().to_owned(),
            attempts: number(&row, "attempts"),
            at,
            redrivable: Some(row.get_bool("redrivable").unwrap_or(false)),
            reason: text(&row, "reason"),
            error: text(&row, "lastError"),
        });
    }
    heads.sort_by_key(|head| std::cmp::Reverse(head.at));
    Ok(heads)
}

/// How many dead letters each endpoint has, by the keys of the index alone.
async fn dead_letters(store: &Store) -> Result<HashMap<String, i64>> {
    let group = doc! { "$group": { "_id": "$endpoint", "count": { "$sum": 1 } } };
    let mut cursor = store.outbox().aggregate([group]).hint(hint("dead")).await?;
    let mut counts = HashMap::new();
    while let Some(row) = cursor.try_next().await? {
        counts.insert(text(&row, "_id"), number(&row, "count"));
    }
    Ok(counts)
}

/// The next delivery of each endpoint, the next of all first, [`NEXT`] at most.
pub(super) async fn next(
    store: &Store,
    directory: &Directory,
    mut firsts: Vec<First>,
    waiting: &HashMap<EndpointKey, i64>,
) -> Result<Vec<Head>> {
    firsts.sort_by_key(|first| first.due);
    let mut seen = HashSet::new();
    firsts.retain(|first| seen.insert(first.endpoint.clone()));
    firsts.truncate(NEXT);
    let ids: Vec<_> = firsts.iter().map(|first| &*first.id).collect();
    let fields = doc! { "results": 1, "attempts": 1, "lastError": 1, "deliveries.type": 1 };
    let outbox = store.outbox();
    let batches = outbox.find(doc! { "_id": { "$in": ids } }).projection(fields);
    let batches: Vec<RawDocumentBuf> = batches.await?.try_collect().await?;
    let batches: HashMap<_, _> = batches
        .iter()
        .filter_map(|batch| Some((batch.get_str("_id").ok()?, batch)))
        .collect();
    let head = |first: First| {
        // Settled meanwhile, it is the next no more.
        let batch = batches.get(&*first.id)?;
        Some(Head {
            count: waiting.get(&first.endpoint).copied().unwrap_or(1),
            organization: first.endpoint.organization().to_owned(),
            endpoint: first.endpoint.endpoint().to_owned(),
            name: directory.name(&first.endpoint),
            event: next_event(batch).unwrap_or_default().to_owned(),
            attempts: i64::from(batch.get_i32("attempts").unwrap_or(0)),
            at: first.due,
            redrivable: None,
            reason: String::new(),
            error: batch.get_str("lastError").unwrap_or_default().to_owned(),
        })
    };
    Ok(firsts.into_iter().filter_map(head).collect())
}

/// The type of the first event in a batch that is not settled.
fn next_event(batch: &RawDocument) -> Option<&str> {
    let results = batch.get_array("results").ok();
    let settled = |index: usize| {
        let result = results.and_then(|results| results.get(index).ok().flatten());
        result.is_some_and(|result| result.as_null().is_none())
    };
    let mut deliveries = batch.get_array("deliveries").ok()?.into_iter().enumerate();
    let (_, delivery) = deliveries.find(|(index, _)| !settled(*index))?;
    delivery.ok()?.as_document()?.get_str("type").ok()
}
