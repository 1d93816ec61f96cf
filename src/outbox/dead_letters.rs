//! What the platform is told of an endpoint's dead letters.

use std::collections::HashMap;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;

use super::document::hint;
use super::{Class, Outbox};
use crate::model::EndpointKey;
use crate::store::{OUTBOX, Result};

/// More are not counted.
const MOST: u64 = 10_000;

/// The dead letter of an endpoint that ended last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastDeadLetter {
    /// The event's id.
    pub event: String,
    /// Its type.
    pub event_type: String,
    /// When it was last attempted.
    pub at: Option<DateTime>,
    /// The status of the response then, if there was one.
    pub status: Option<u16>,
    /// What failed then; of one that was never attempted, why it ended.
    pub reason: String,
}

impl Outbox {
    /// How many dead letters of the endpoint are kept, 10,000 at most.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn dead_letters_of(&self, endpoint: &EndpointKey) -> Result<u64> {
        let outbox = self.store.outbox();
        // The index holds nothing else. With a filter on the state MongoDB would read every document, too.
        let count = outbox.count_documents(doc! { "endpoint": endpoint.as_str() });
        Ok(count.hint(hint("dead")).limit(MOST).await?)
    }

    /// Of each of these endpoints that has dead letters, the one that ended last.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn last_dead_letters(&self, endpoints: &[EndpointKey]) -> Result<HashMap<EndpointKey, LastDeadLetter>> {
        if endpoints.is_empty() {
            return Ok(HashMap::new());
        }
        let pipeline = last_of_each(endpoints);
        let found = self.store.outbox().aggregate(pipeline).hint(hint("dead")).await?;
        let found: Vec<Document> = found.try_collect().await?;
        Ok(found.iter().filter_map(read).collect())
    }

    /// Whether deliveries of the endpoint wait, or are sent, that have failed before: dead letters that go out again are among them.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn has_retries(&self, endpoint: &EndpointKey) -> Result<bool> {
        let queues = [Class::Retry, Class::Background].map(|class| class.queue(endpoint));
        let filter = doc! { "state": "pending", "queue": { "$in": &queues[..] } };
        let outbox = self.store.outbox();
        let find = outbox.find_one(filter).projection(doc! { "_id": 1 });
        Ok(find.hint(hint("pending")).await?.is_some())
    }
}

fn last_of_each(endpoints: &[EndpointKey]) -> Vec<Document> {
    let mut parts = endpoints.iter().map(last_of);
    let mut pipeline = parts.next().unwrap_or_default();
    pipeline.extend(parts.map(|part| doc! { "$unionWith": { "coll": OUTBOX, "pipeline": part } }));
    pipeline
}

/// The stages that yield an endpoint's dead letter that ended last.
fn last_of(endpoint: &EndpointKey) -> Vec<Document> {
    let fields = doc! {
        "endpoint": 1, "deliveries.event": 1, "deliveries.type": 1, "lastAttemptAt": 1, "lastStatus": 1, "lastError": 1, "reason": 1,
    };
    vec![
        doc! { "$match": { "state": "dead", "endpoint": endpoint.as_str() } },
        doc! { "$sort": { "finishedAt": -1 } },
        doc! { "$limit": 1 },
        doc! { "$project": fields },
    ]
}

fn read(document: &Document) -> Option<(EndpointKey, LastDeadLetter)> {
    let endpoint = EndpointKey::from_stored(document.get_str("endpoint").ok()?);
    let delivery = document.get_array("deliveries").ok();
    let delivery = delivery.and_then(|deliveries| deliveries.first()?.as_document());
    let of_delivery = |field| delivery.and_then(|delivery| delivery.get_str(field).ok());
    let status = document.get_i32("lastStatus").ok();
    let reason = document.get_str("lastError").or_else(|_| document.get_str("reason"));
    let last = LastDeadLetter {
        event: of_delivery("event").unwrap_or_default().to_owned(),
        event_type: of_delivery("type").unwrap_or_default().to_owned(),
        at: document.get_datetime("lastAttemptAt").ok().copied(),
        status: status.and_then(|status| u16::try_from(status).ok()),
        reason: reason.unwrap_or_default().to_owned(),
    };
    Some((endpoint, last))
}
