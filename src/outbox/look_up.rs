//! What the outbox holds under a name that an operator gave.

use std::collections::BTreeSet;

use bson::{RawDocumentBuf, doc};
use futures_util::TryStreamExt;

use super::document::hint;
use crate::model::EventType;
use crate::store::{Result, Store};

/// What was found.
#[derive(Debug)]
pub enum LookedUp {
    /// The states of the documents that hold it.
    States(Vec<String>),
    /// All of it was erased.
    Erased,
    /// All of it has lost its payload by `delivery.payload_retention`.
    WithoutPayload,
    /// Nothing; the name that is most like it, if there is any.
    Nearest(Option<String>),
}

/// Looks for a delivery (`EVENT/ORGANIZATION/ENDPOINT`), an event, or a document's `_id`. Each query is a look-up in an index.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn look_up(store: &Store, id: &str) -> Result<LookedUp> {
    let is_event = EventType::begins(id);
    let (event, endpoint) = id
        .split_once('/')
        .map_or((id, None), |(event, endpoint)| (event, Some(endpoint)));
    let mut filter = match is_event {
        true => doc! { "deliveries.event": event },
        false => doc! { "_id": id },
    };
    if let Some(endpoint) = endpoint.filter(|_| is_event) {
        filter.insert("endpoint", endpoint);
    }
    let fields = doc! { "state": 1, "payloadDropped": 1, "deliveries.event": 1, "deliveries.erased": 1 };
    let found = store.outbox().find(filter).projection(fields).await?;
    let found: Vec<RawDocumentBuf> = found.try_collect().await?;
    let is_erased = |document: &RawDocumentBuf| is_erased(document, is_event.then_some(event));
    if !found.is_empty() && found.iter().all(is_erased) {
        return Ok(LookedUp::Erased);
    }
    let has_none = |document: &RawDocumentBuf| document.get_bool("payloadDropped").unwrap_or(false);
    if !found.is_empty() && found.iter().all(|document| has_none(document) || is_erased(document)) {
        return Ok(LookedUp::WithoutPayload);
    }
    let states: BTreeSet<_> = found.iter().filter_map(|one| one.get_str("state").ok()).collect();
    if !states.is_empty() {
        return Ok(LookedUp::States(states.into_iter().map(str::to_owned).collect()));
    }
    let mut names = Vec::new();
    for (bound, order) in [("$gte", 1), ("$lt", -1)] {
        names.extend(neighbours(store, if is_event { event } else { id }, bound, order, is_event).await?);
    }
    let likeness = |name: &String| strsim::jaro_winkler(name, id);
    let nearest = names.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    Ok(LookedUp::Nearest(nearest))
}

/// Whether the deliveries of that event, or all of a document, are erased.
fn is_erased(document: &RawDocumentBuf, event: Option<&str>) -> bool {
    let deliveries = document.get_array("deliveries").into_iter().flatten();
    let mut meant = deliveries
        .filter_map(|delivery| delivery.ok()?.as_document())
        .filter(|delivery| event.is_none_or(|event| delivery.get_str("event").is_ok_and(|found| found == event)))
        .peekable();
    meant.peek().is_some() && meant.all(|delivery| delivery.get_bool("erased").unwrap_or(false))
}

/// The names of the document that comes next to `id` in the index, after it or before it.
async fn neighbours(store: &Store, id: &str, bound: &str, order: i32, is_event: bool) -> Result<Vec<String>> {
    let (field, index) = match is_event {
        true => ("deliveries.event", "events"),
        false => ("_id", "_id_"),
    };
    let outbox = store.outbox();
    let mut filter = doc! {};
    filter.insert(field, doc! { bound: id });
    let next = outbox.find_one(filter).sort(doc! { field: order }).hint(hint(index));
    let Some(next) = next.projection(doc! { field: 1 }).await? else {
        return Ok(Vec::new());
    };
    if !is_event {
        return Ok(next.get_str("_id").map(str::to_owned).into_iter().collect());
    }
    let deliveries = next.get_array("deliveries").into_iter().flatten();
    let event = deliveries.filter_map(|delivery| delivery.ok()?.as_document()?.get_str("event").ok());
    Ok(event.map(str::to_owned).collect())
}
