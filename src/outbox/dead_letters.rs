//! What the platform is told of an endpoint's dead letters.

use bson::{DateTime, Document, doc};

use super::Outbox;
use super::document::hint;
use crate::model::EndpointKey;
use crate::store::Result;

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
    /// Whether it goes out again by itself.
    pub is_redrivable: bool,
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

    /// The endpoint's dead letter that ended last, if it has one.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn last_dead_letter(&self, endpoint: &EndpointKey) -> Result<Option<LastDeadLetter>> {
        let outbox = self.store.outbox().clone_with_type::<Document>();
        let fields = doc! {
            "deliveries.event": 1, "deliveries.type": 1, "lastAttemptAt": 1, "lastStatus": 1, "lastError": 1, "reason": 1,
            "redrivable": 1,
        };
        let find = outbox.find_one(doc! { "state": "dead", "endpoint": endpoint.as_str() });
        let find = find
            .sort(doc! { "finishedAt": -1 })
            .projection(fields)
            .hint(hint("dead"));
        Ok(find.await?.map(|document| read(&document)))
    }
}

fn read(document: &Document) -> LastDeadLetter {
    let delivery = document.get_array("deliveries").ok();
    let delivery = delivery.and_then(|deliveries| deliveries.first()?.as_document());
    let of_delivery = |field| delivery.and_then(|delivery| delivery.get_str(field).ok());
    let status = document.get_i32("lastStatus").ok();
    let reason = document.get_str("lastError").or_else(|_| document.get_str("reason"));
    LastDeadLetter {
        event: of_delivery("event").unwrap_or_default().to_owned(),
        event_type: of_delivery("type").unwrap_or_default().to_owned(),
        at: document.get_datetime("lastAttemptAt").ok().copied(),
        status: status.and_then(|status| u16::try_from(status).ok()),
        reason: reason.unwrap_or_default().to_owned(),
        is_redrivable: document.get_bool("redrivable").unwrap_or(false),
    }
}
