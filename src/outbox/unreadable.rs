//! Pending documents that can't be read, because somebody else has written to them: set aside, so that they stop no other.

use bson::{Bson, DateTime, Document, RawDocument, doc};

use super::versions::raw;
use super::{Class, Outbox};
use crate::model::EndpointKey;
use crate::store::Result;

/// A pending document that can't be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Its `_id`, of any type.
    pub id: Bson,
    /// The queue in which it waits, if that can be read.
    pub queue: Option<(EndpointKey, Class)>,
    /// What is wrong with it.
    pub reason: String,
    /// Some of its fields as they were read.
    seen: Document,
}

impl Unreadable {
    /// `id` is the name of the field with its `_id`, `seen` says which of its fields were read and under which names.
    pub(super) fn new(document: &RawDocument, id: &str, seen: &[(&str, &str)], reason: String) -> Self {
        // What is there is compared as it is; null also matches an absent field.
        let seen = seen.iter().map(|(field, name)| {
            let value = doc! { "$eq": bson(document, name) };
            ((*field).to_owned(), value.into())
        });
        let seen: Document = seen.collect();
        let queue = seen.get_document("queue").and_then(|queue| queue.get_str("$eq"));
        let queue = queue.ok().or_else(|| document.get_str("queue").ok());
        Self {
            id: bson(document, id),
            queue: queue.and_then(Class::parse),
            reason,
            seen,
        }
    }
}

impl Outbox {
    /// Sets a document aside that can't be read, so that it is not looked at again and again; `false` if somebody else was faster.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn set_aside(&self, unreadable: &Unreadable, now: DateTime) -> Result<bool> {
        let reason = format!("can't be read: {}", unreadable.reason);
        let set = doc! { "state": "rejected", "reason": reason, "finishedAt": now, "version": 1 };
        let mut filter = doc! { "_id": &unreadable.id, "state": "pending" };
        filter.extend(unreadable.seen.clone());
        let done = self.store.outbox().update_one(filter, doc! { "$set": set }).await?;
        Ok(done.modified_count > 0)
    }
}

fn bson(document: &RawDocument, field: &str) -> Bson {
    Bson::try_from(raw(document, field)).unwrap_or(Bson::Null)
}
