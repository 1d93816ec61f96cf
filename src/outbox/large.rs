//! Large payloads: a note that an attempt has begun.
//!
//! An attempt is counted when its result is recorded. A payload that ends the process before that (it takes the last memory,
//! say) would so be sent again after every start, for ever. Where a payload is larger than a batch may be, the outbox therefore
//! notes that an attempt has begun, and the result erases the note.

use std::sync::atomic::Ordering;

use bson::doc;

use super::document::BATCH_BYTES;
use super::{Delivery, Outbox};
use crate::store::Result;

/// Attempts in a row that may begin without a result. A crash for another reason counts too, so it is more than one.
pub const UNFINISHED: u32 = 5;

impl Delivery {
    /// Whether it is noted that an attempt begins.
    pub fn is_large(&self) -> bool {
        self.message.body.len() > BATCH_BYTES
    }
}

impl Outbox {
    /// Counts an attempt of a large delivery that begins, or takes one back by `-1` that was not made. `false` if somebody else wrote to its
    /// document since it was read.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn add_to_begun(&self, delivery: &Delivery, attempts: i32) -> Result<bool> {
        let batch = &delivery.batch;
        let version = batch.version.load(Ordering::Relaxed);
        let filter = doc! { "_id": &*batch.id, "version": version };
        let update = doc! { "$inc": { "begun": attempts, "version": 1 } };
        let noted = self.store.outbox().update_one(filter, update).await?;
        if noted.matched_count == 1 {
            batch.version.store(version + 1, Ordering::Relaxed);
        }
        Ok(noted.matched_count == 1)
    }
}
