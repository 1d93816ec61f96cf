//! Ending what waits for an endpoint that is switched off or deleted.

use bson::{DateTime, doc, rawdoc};
use mongodb::options::FindOptions;

use super::document::hint;
use super::versions::tell_of_versions;
use super::{Class, Outbox};
use crate::model::EndpointKey;
use crate::statistics::Additions;
use crate::store::{Error, OUTBOX, Result, STATISTICS, Writer};

/// Documents per transaction: others get their turn in between.
const STEP: i64 = 100;

/// What a step of a cancellation did.
#[derive(Debug)]
pub enum Cancelled {
    /// This many deliveries were cancelled.
    Deliveries(u64),
    /// Nothing waits any more.
    All,
    /// MongoDB refuses to change one of the documents: it is left alone.
    Refused(Error),
}

impl Outbox {
    /// Cancels up to 100 of the documents that wait for an endpoint, and counts their open deliveries if `counted`.
    ///
    /// # Errors
    /// Nothing was cancelled: MongoDB refused or is unavailable, or somebody else wrote to one of the documents.
    pub async fn cancel(
        &self,
        endpoint: &EndpointKey,
        reason: &str,
        now: DateTime,
        counted: bool,
    ) -> Result<Cancelled> {
        let mut transaction = self.store.begin(Writer::Upkeep).await?;
        let queues = Class::ALL.map(|class| class.queue(endpoint));
        let mut options = FindOptions::default();
        options.projection = Some(doc! { "version": 1, "open": 1 });
        options.hint = Some(hint("pending"));
        options.limit = Some(STEP);
        let except = self.left_alone(endpoint);
        let filter = doc! { "state": "pending", "queue": { "$in": &queues[..] }, "_id": { "$nin": except } };
        let found = transaction.find(OUTBOX, filter, options).await?;
        if found.is_empty() {
            transaction.abort().await;
            return Ok(Cancelled::All);
        }
        let set = rawdoc! { "state": "cancelled", "reason": reason, "finishedAt": now };
        let change = (set, rawdoc! { "redriven": 1 });
        let refused = self.change_in_transaction(&mut transaction, endpoint, &found, change);
        if let Some(error) = refused.await? {
            transaction.abort().await;
            return Ok(Cancelled::Refused(error));
        }
        let open = found.iter().filter_map(|document| document.get_i32("open").ok());
        let deliveries = open.map(i64::from).sum();
        if counted {
            let mut statistics = Additions::default();
            statistics.of(endpoint).cancelled = deliveries;
            transaction.update(STATISTICS, statistics.rows(now).iter()).await?;
        }
        transaction.commit().await?;
        tell_of_versions(endpoint, &found);
        Ok(Cancelled::Deliveries(u64::try_from(deliveries).unwrap_or(0)))
    }
}
