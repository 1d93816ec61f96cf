//! The next delivery of each endpoint, and its latest dead letter, each with how many there are.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bson::{DateTime, RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::queues::{First, IDS};
use super::{hint, instant, number, rfc3339, text};
use crate::model::{EndpointKey, counted_back, earlier};
use crate::notices::{Noted, episode_id};
use crate::operations::Holds;
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

/// By what a dead letter is too old to go out again by itself.
pub(super) struct Redrive<'a> {
    pub(super) redrive_for: Duration,
    pub(super) holds: &'a Holds,
    pub(super) now: DateTime,
}

/// The latest dead letter of each endpoint, the latest of all first: a distinct scan, which reads no other document of the outbox.
pub(super) async fn dead(store: &Store, directory: &Directory, redrive: &Redrive<'_>) -> Result<Vec<Head>> {
    let first = |field: &str| doc! { "$first": format!("${field}") };
    let group = doc! {
        "_id": "$endpoint", "at": first("finishedAt"), "types": first("deliveries.type"), "attempts": first("attempts"),
        "reason": first("reason"), "lastError": first("lastError"), "redrivable": first("redrivable"),
        "since": first("deadSince"),
    };
    let pipeline = [
        doc! { "$sort": { "endpoint": -1, "finishedAt": -1 } },
        doc! { "$group": group },
    ];
    let mut cursor = store.outbox().aggregate(pipeline).hint(hint("dead")).await?;
    let counts = dead_letters(store).await?;
    let (mut heads, mut aged) = (Vec::new(), Vec::new());
    while let Some(row) = cursor.try_next().await? {
        let key = EndpointKey::from_stored(&text(&row, "_id"));
        let is_redrivable = row.get_bool("redrivable").unwrap_or(false);
        let since = instant(&row, "since").filter(|_| is_redrivable);
        if let Some(since) = since.filter(|since| *since <= earlier(redrive.now, redrive.redrive_for)) {
            aged.push((heads.len(), key.clone(), since));
        }
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
            redrivable: Some(since.is_some()),
            reason: text(&row, "reason"),
            error: text(&row, "lastError"),
        });
    }
    for (place, is_young) in young(store, aged, redrive).await? {
        heads[place].redrivable = Some(is_young);
    }
    heads.sort_by_key(|head| std::cmp::Reverse(head.at));
    Ok(heads)
}

/// Whether dead letters go out again by themselves although they died longer than `redrive_for` ago: while their endpoints were held or
/// suspended they grew no older.
async fn young(
    store: &Store,
    aged: Vec<(usize, EndpointKey, DateTime)>,
    redrive: &Redrive<'_>,
) -> Result<Vec<(usize, bool)>> {
    let mut young = Vec::new();
    for aged in aged.chunks(IDS) {
        let ids: Vec<_> = aged.iter().map(|(_, key, _)| episode_id(key)).collect();
        let mut cursor = store.state().find(doc! { "_id": { "$in": ids } }).await?;
        let mut suspensions = HashMap::new();
        while let Some(document) = cursor.try_next().await? {
            suspensions.extend(Noted::read(&document).map(|(key, noted)| (key, noted.suspensions(redrive.now))));
        }
        young.extend(aged.iter().map(|(place, key, since)| {
            let mut waited = redrive.holds.periods(key, redrive.now);
            waited.extend(suspensions.remove(key).unwrap_or_default());
            (*place, *since > counted_back(redrive.now, redrive.redrive_for, &waited))
        }));
    }
    Ok(young)
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
