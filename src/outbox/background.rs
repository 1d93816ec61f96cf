//! Moving what has waited to the class `background`: it goes out after what happens now.

use bson::{DateTime, doc, rawdoc};
use mongodb::options::FindOptions;

use super::document::hint;
use super::{Class, Outbox};
use crate::model::EndpointKey;
use crate::store::{OUTBOX, Result, Writer};

/// Documents per transaction: others get their turn in between.
const STEP: i64 = 100;

impl Outbox {
    /// Moves up to 100 of the documents that waited for an endpoint before `since` to the class `background`: the latest first, because
    /// the first are being fetched meanwhile. Returns whether more may follow.
    ///
    /// # Errors
    /// Nothing was moved: MongoDB refused or is unavailable, or somebody else wrote to one of the documents.
    pub async fn move_to_background(&self, endpoint: &EndpointKey, since: DateTime) -> Result<bool> {
        for class in [Class::Live, Class::Retry] {
            let mut transaction = self.store.begin(Writer::Upkeep).await?;
            let mut options = FindOptions::default();
            options.projection = Some(doc! { "version": 1 });
            options.hint = Some(hint("pending"));
            options.sort = Some(doc! { "queue": -1, "due": -1 });
            options.limit = Some(STEP);
            let filter = doc! {
                "state": "pending", "queue": class.queue(endpoint), "due": { "$lt": since }, "createdAt": { "$lt": since },
                "_id": { "$nin": self.left_alone(endpoint) },
            };
            let found = transaction.find(OUTBOX, filter, options).await?;
            if found.is_empty() {
                transaction.abort().await;
                continue;
            }
            let set = rawdoc! { "queue": Class::Background.queue(endpoint) };
            let refused = self.change_in_transaction(&mut transaction, endpoint, &found, (set, rawdoc! {}));
            if refused.await?.is_some() {
                transaction.abort().await;
                return Ok(true);
            }
            transaction.commit().await?;
            return Ok(true);
        }
        Ok(false)
    }
}
