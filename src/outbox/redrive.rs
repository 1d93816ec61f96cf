//! Dead letters that go out again by themselves.

use bson::{DateTime, doc, rawdoc};
use futures_util::TryStreamExt;

use super::document::{hint, id_of};
use super::{Class, Head, Outbox};
use crate::model::EndpointKey;
use crate::store::{OUTBOX, Result, Writer, update_row};

impl Outbox {
    /// The endpoints of which some delivery died after `since`. Served by a distinct scan of the index on dead letters: its cost
    /// grows with the endpoints that have some.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn with_dead_letters(&self, since: DateTime) -> Result<Vec<EndpointKey>> {
        let pipeline = vec![
            doc! { "$sort": { "endpoint": -1, "finishedAt": -1 } },
            doc! { "$group": { "_id": "$endpoint", "last": { "$first": "$finishedAt" } } },
            doc! { "$match": { "last": { "$gt": since } } },
        ];
        let outbox = self.store.outbox();
        let mut cursor = outbox.aggregate(pipeline).hint(hint("dead")).await?;
        let mut endpoints = Vec::new();
        while let Some(row) = cursor.try_next().await? {
            endpoints.extend(row.get_str("_id").map(EndpointKey::from_stored));
        }
        Ok(endpoints)
    }

    /// Makes up to `limit` dead letters of an endpoint pending again, for one more attempt each; those that died at `since` or
    /// before are left alone. The oldest come first, those that were redriven before come last. Returns them.
    ///
    /// # Errors
    /// Nothing was changed: MongoDB refused or is unavailable, or somebody else wrote to one of them.
    pub async fn redrive(
        &self,
        endpoint: &EndpointKey,
        since: DateTime,
        limit: i64,
        now: DateTime,
    ) -> Result<Vec<Head>> {
        // What died first after `since` did not die last before it: the index leaves these out.
        let filter = doc! {
            "state": "dead", "endpoint": endpoint.as_str(), "finishedAt": { "$gt": since },
            "deadSince": { "$gt": since }, "redrivable": true,
        };
        let mut transaction = self.store.begin(Writer::Upkeep).await?;
        let mut options = mongodb::options::FindOptions::default();
        options.projection = Some(doc! { "version": 1 });
        options.sort = Some(doc! { "finishedAt": 1 });
        options.hint = Some(hint("dead"));
        options.limit = Some(limit);
        let oldest = transaction
            .find(&self.store.outbox(), filter, options, |_| true)
            .await?;
        let mut heads = Vec::with_capacity(oldest.len());
        let mut rows = Vec::with_capacity(oldest.len());
        for document in &oldest {
            let Some(id) = id_of(document) else { continue };
            let update = rawdoc! {
                "$set": { "state": "pending", "queue": Class::Retry.queue(endpoint), "due": now, "redriven": true },
                "$unset": { "finishedAt": 1, "reason": 1 },
                "$inc": { "version": 1 },
            };
            let version = document.get_i32("version").unwrap_or(0);
            rows.push(update_row(
                rawdoc! { "_id": id.as_str(), "version": version },
                update,
                false,
            ));
            heads.push(Head {
                endpoint: endpoint.clone(),
                class: Class::Retry,
                due: now,
                id: id.into(),
            });
        }
        if rows.is_empty() {
            transaction.abort().await;
            return Ok(heads);
        }
        transaction.update(OUTBOX, rows.iter()).await?;
        transaction.commit().await?;
        Ok(heads)
    }

    /// The state of a document of the outbox; `None` if it is gone.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn state_of(&self, id: &str) -> Result<Option<String>> {
        let outbox = self.store.outbox();
        let found = outbox
            .find_one(doc! { "_id": id })
            .projection(doc! { "state": 1 })
            .await?;
        Ok(found.and_then(|document| document.get_str("state").ok().map(str::to_owned)))
    }
}
