//! What became of deliveries, one by one: a batch of the outbox holds several.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;

use super::{Bed, LIMIT, expired_id};
use crate::layout;

/// Changes each of which follows the last within this time are one burst.
const BURST: Duration = Duration::from_millis(20);

impl Bed {
    /// The deliveries that match, each as if it were a document of the outbox by itself: with what its batch holds of it, and its
    /// own `state`, `attempts`, `lastStatus` and `lastAttemptAt`. A certificate that was rejected counts as one.
    pub async fn deliveries(&self, filter: Document) -> Vec<Document> {
        let found = self.outbox().aggregate(one_by_one(filter)).await.unwrap();
        found.try_collect().await.unwrap()
    }

    /// How many match: see [`Bed::deliveries`].
    pub async fn count_deliveries(&self, filter: Document) -> u64 {
        let mut pipeline = one_by_one(filter);
        pipeline.push(doc! { "$count": "count" });
        let mut counted = self.outbox().aggregate(pipeline).await.unwrap();
        let count = counted.try_next().await.unwrap();
        count.map_or(0, |count| u64::try_from(count.get_i32("count").unwrap()).unwrap())
    }

    /// Waits until that many match: see [`Bed::deliveries`].
    pub async fn wait_for_deliveries(&self, filter: Document, count: u64) {
        let found = || self.count_deliveries(filter.clone());
        wait_for(&self.outbox(), found, count, &format!("deliveries that match {filter}")).await;
    }

    /// Waits until the collection holds `count` documents that match.
    pub async fn wait_for_count(&self, collection: &Collection<Document>, filter: Document, count: u64) {
        let found = async || collection.count_documents(filter.clone()).await.unwrap();
        wait_for(collection, found, count, &format!("documents that match {filter}")).await;
    }
}

/// Each delivery of each batch that matches.
fn one_by_one(filter: Document) -> Vec<Document> {
    let result = doc! { "$arrayElemAt": ["$results", { "$toInt": "$place" }] };
    let is_delivered = doc! { "$gt": ["$result.status", null] };
    let is_cancelled = doc! { "$eq": ["$result.cancelled", true] };
    let state = doc! { "$switch": {
        "branches": [{ "case": &is_delivered, "then": "delivered" }, { "case": is_cancelled, "then": "cancelled" }],
        "default": "$state",
    } };
    let first = doc! { "$cond": [&is_delivered, 1, 0] };
    let own = doc! {
        "state": state, "attempts": { "$ifNull": ["$attempts", first] },
        "lastStatus": { "$ifNull": ["$lastStatus", "$result.status", "$$REMOVE"] },
        "lastAttemptAt": { "$ifNull": ["$lastAttemptAt", "$result.at", "$$REMOVE"] },
    };
    vec![
        doc! { "$unwind": { "path": "$deliveries", "includeArrayIndex": "place", "preserveNullAndEmptyArrays": true } },
        doc! { "$set": { "result": result } },
        // What has moved has a document of its own.
        doc! { "$match": { "result.moved": { "$ne": true } } },
        doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", "$deliveries", own] } },
        doc! { "$unset": ["deliveries", "results", "result", "place", "open"] },
        doc! { "$match": filter },
    ]
}

/// Waits until `count` finds that many: looks, and looks again after each burst of changes.
async fn wait_for(collection: &Collection<Document>, count: impl AsyncFn() -> u64, wanted: u64, what: &str) {
    let watch = || async {
        let ids = collection.watch().pipeline([doc! { "$project": { "_id": 1 } }]);
        let changes = ids.max_await_time(BURST).await.unwrap();
        changes.with_type::<RawDocumentBuf>()
    };
    let found = async {
        // Opened before looking, so that no change falls in between.
        let mut changes = watch().await;
        while count().await != wanted {
            while changes.next_if_any().await.unwrap().is_none() && changes.is_alive() {}
            while changes.next_if_any().await.unwrap().is_some() {}
            // Ended by the collection's.
            if !changes.is_alive() {
                changes = watch().await;
            }
        }
    };
    if tokio::time::timeout(LIMIT, found).await.is_err() {
        let (found, name) = (count().await, collection.name());
        panic!("{found} instead of {wanted} in {name}: {what}");
    }
}

/// Under which name the outbox knows the endpoint.
pub fn endpoint_key(organization: ObjectId, endpoint: &Document) -> String {
    format!("{organization}/{}", endpoint.get_object_id("_id").unwrap())
}

/// Expiries that wait for that endpoint, as a batch of the outbox.
pub fn pending_batch(endpoint: &str, certificates: &[Document]) -> Document {
    layout::batch(endpoint, &certificates.iter().map(expired_id).collect::<Vec<_>>())
}
