//! Ending what waits for an endpoint that is switched off or deleted.

use bson::{Bson, DateTime, doc, rawdoc};
use mongodb::options::FindOptions;

use super::document::{hint, id_of};
use super::{Class, Outbox};
use crate::model::EndpointKey;
use crate::statistics::Additions;
use crate::store::{OUTBOX, Result, STATISTICS, Writer, update_row};

/// Documents per transaction: others get their turn in between.
const STEP: i64 = 100;

impl Outbox {
    /// Cancels up to 100 of the documents that wait for an endpoint, and counts their open deliveries if `counted`. Returns how many
    /// deliveries that were; 0 when none waits any more.
    ///
    /// # Errors
    /// Nothing was cancelled: MongoDB refused or is unavailable, or somebody else wrote to one of the documents.
    pub async fn cancel(&self, endpoint: &EndpointKey, reason: &str, now: DateTime, counted: bool) -> Result<u64> {
        let mut transaction = self.store.begin(Writer::Upkeep).await?;
        let queues = Class::ALL.map(|class| class.queue(endpoint));
        let mut options = FindOptions::default();
        options.projection = Some(doc! { "version": 1, "open": 1 });
        options.hint = Some(hint("pending"));
        options.limit = Some(STEP);
        let filter = doc! { "state": "pending", "queue": { "$in": &queues[..] } };
        let found = transaction
            .find(&self.store.outbox(), filter, options, |_| true)
            .await?;
        let mut rows = Vec::with_capacity(found.len());
        let mut deliveries = 0;
        for document in &found {
            let version = document.get_i32("version").unwrap_or(0);
            deliveries += i64::from(document.get_i32("open").unwrap_or(0));
            let update = rawdoc! {
                "$set": { "state": "cancelled", "reason": reason, "finishedAt": now },
                "$inc": { "version": 1 },
                "$unset": { "redriven": 1 },
            };
            let filter = rawdoc! { "_id": id_of(document).unwrap_or_default(), "version": version };
            rows.push(update_row(filter, update, false));
        }
        if rows.is_empty() {
            transaction.abort().await;
            return Ok(0);
        }
        let reply = transaction.update(OUTBOX, rows.iter()).await?;
        if reply.matched != rows.len() {
            // One has no version to compare: the fetcher sets it aside.
            transaction.abort().await;
            return Ok(0);
        }
        if counted {
            let mut statistics = Additions::default();
            statistics.of(endpoint).cancelled = deliveries;
            transaction.update(STATISTICS, statistics.rows(now).iter()).await?;
        }
        transaction.commit().await?;
        Ok(u64::try_from(deliveries).unwrap_or(0))
    }

    /// Sets a batch aside that can't be read, so that it is not looked at again and again.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn set_aside(&self, id: &str, version: Option<Bson>, reason: &str, now: DateTime) -> Result<()> {
        let set = doc! {
            "state": "rejected", "reason": format!("can't be read: {reason}"), "finishedAt": now, "version": 1,
        };
        // Whatever is there in the place of a version is compared as it is.
        let filter = doc! { "_id": id, "state": "pending", "version": version };
        self.store.outbox().update_one(filter, doc! { "$set": set }).await?;
        Ok(())
    }
}
