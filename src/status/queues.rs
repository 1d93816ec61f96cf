//! The queues of the outbox, one or more per endpoint: the first batch of each, and how much waits. All but the age of what waits is
//! answered by the keys of the index on pending batches.

use std::collections::HashMap;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;

use super::{find, hint, instant, number, suspended, text};
use crate::model::EndpointKey;
use crate::operations::Holds;
use crate::platform::{Directory, Found};
use crate::store::{Result, Store};

/// Ids in one command.
pub(super) const IDS: usize = 1_000;

/// The first batch of a queue.
#[derive(Clone, Debug)]
pub(super) struct First {
    pub(super) endpoint: EndpointKey,
    pub(super) due: DateTime,
    pub(super) id: String,
}

/// The first batch of each queue: a distinct scan, whose cost grows with the queues that have something pending. The index holds
/// nothing else, so there is no filter on the state: with one, MongoDB would read every pending document.
pub(super) async fn firsts(store: &Store) -> Result<Vec<First>> {
    let pipeline = [
        doc! { "$sort": { "queue": 1, "due": 1, "_id": 1 } },
        doc! { "$group": { "_id": "$queue", "due": { "$first": "$due" }, "id": { "$first": "$_id" } } },
    ];
    let mut cursor = store.outbox().aggregate(pipeline).hint(hint("pending")).await?;
    let mut firsts = Vec::new();
    while let Some(row) = cursor.try_next().await? {
        let (Some(endpoint), Some(due)) = (endpoint(&row), instant(&row, "due")) else {
            continue;
        };
        let id = text(&row, "id");
        firsts.push(First { endpoint, due, id });
    }
    Ok(firsts)
}

/// How many deliveries wait for each endpoint.
pub(super) async fn waiting(store: &Store) -> Result<HashMap<EndpointKey, i64>> {
    let group = doc! { "$group": { "_id": "$queue", "open": { "$sum": "$open" } } };
    let mut cursor = store.outbox().aggregate([group]).hint(hint("pending")).await?;
    let mut waiting = HashMap::new();
    while let Some(row) = cursor.try_next().await? {
        if let Some(endpoint) = endpoint(&row) {
            *waiting.entry(endpoint).or_default() += number(&row, "open");
        }
    }
    Ok(waiting)
}

/// How long the first batch that has been waiting longest has been due. A batch waits since `max(due, createdAt)`, because one that is
/// found long after it happened is due from long before. Example: expired yesterday, found a minute ago: it waits for a minute. What
/// waits because its endpoint is not served doesn't count.
pub(super) async fn oldest(
    store: &Store,
    directory: &Directory,
    firsts: &[First],
    now: DateTime,
) -> Result<Option<Duration>> {
    let suspended = suspended(store).await?;
    let holds = Holds::default();
    holds.load(store).await?;
    let waits = |endpoint: &EndpointKey| suspended.contains_key(endpoint) || holds.is_held(endpoint, now);
    let is_sent = |endpoint: &EndpointKey| is_served(directory, endpoint) && !waits(endpoint);
    let is_late = |first: &&First| first.due <= now && is_sent(&first.endpoint);
    let mut due: Vec<_> = firsts.iter().filter(is_late).collect();
    due.sort_unstable_by_key(|first| first.due);
    let outbox = store.outbox();
    let mut since: Option<DateTime> = None;
    for firsts in due.chunks(IDS) {
        // Nothing waits since before it was due.
        if since.is_some_and(|since| since <= firsts[0].due) {
            break;
        }
        let ids: Vec<_> = firsts.iter().map(|first| &*first.id).collect();
        let fields = doc! { "due": 1, "createdAt": 1 };
        let mut batches = outbox.find(doc! { "_id": { "$in": ids } }).projection(fields).await?;
        while let Some(batch) = batches.try_next().await? {
            if let (Ok(due), Ok(created)) = (batch.get_datetime("due"), batch.get_datetime("createdAt")) {
                let waits_since = due.max(created);
                since = Some(since.map_or(waits_since, |since| since.min(waits_since)));
            }
        }
    }
    Ok(since.map(|since| now.saturating_duration_since(since)))
}

fn is_served(directory: &Directory, endpoint: &EndpointKey) -> bool {
    matches!(
        find(directory, endpoint),
        Some(Found::Served(_) | Found::Email { enabled: true })
    )
}

/// A queue is named by the endpoint's key and a class.
fn endpoint(row: &Document) -> Option<EndpointKey> {
    let (endpoint, _class) = row.get_str("_id").ok()?.rsplit_once('/')?;
    Some(EndpointKey::from_stored(endpoint))
}
