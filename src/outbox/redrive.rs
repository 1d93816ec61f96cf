//! Dead letters that go out again by themselves.

use std::collections::HashMap;

use bson::{DateTime, doc, rawdoc};
use futures_util::TryStreamExt;
use mongodb::options::FindOptions;

use super::document::{hint, id_of};
use super::versions::tell_of_versions;
use super::{Class, Head, Outbox};
use crate::model::EndpointKey;
use crate::store::{Error, OUTBOX, Result, Writer};

/// What became of dead letters.
#[derive(Debug)]
pub enum Redriven {
    /// These are pending again.
    Again(Vec<Head>),
    /// None, because MongoDB refuses to change one of them: it is left alone.
    Refused(Error),
}

/// The state of a document.
#[derive(Clone, Debug)]
pub struct DocumentState {
    /// As in the document: `pending`, `delivered`, `dead` or `cancelled`.
    pub state: String,
    /// When it ended, if it has.
    pub ended: Option<DateTime>,
}

impl Outbox {
    /// The endpoints that have dead letters, and when the last of them died. Served by a distinct scan of the index on dead letters: its
    /// cost grows with the endpoints that have some.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn with_dead_letters(&self) -> Result<HashMap<EndpointKey, DateTime>> {
        let pipeline = vec![
            doc! { "$sort": { "endpoint": -1, "finishedAt": -1 } },
            doc! { "$group": { "_id": "$endpoint", "last": { "$first": "$finishedAt" } } },
        ];
        let outbox = self.store.outbox();
        let mut cursor = outbox.aggregate(pipeline).hint(hint("dead")).await?;
        let mut endpoints = HashMap::new();
        while let Some(row) = cursor.try_next().await? {
            if let (Ok(endpoint), Ok(last)) = (row.get_str("_id"), row.get_datetime("last")) {
                endpoints.insert(EndpointKey::from_stored(endpoint), *last);
            }
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
    ) -> Result<Redriven> {
        // What died first after `since` did not die last before it: the index leaves these out.
        let filter = doc! {
            "state": "dead", "endpoint": endpoint.as_str(), "finishedAt": { "$gt": since },
            "deadSince": { "$gt": since }, "redrivable": true, "_id": { "$nin": self.left_alone(endpoint), "$gte": "" },
        };
        let mut transaction = self.store.begin(Writer::Upkeep).await?;
        let mut options = FindOptions::default();
        options.projection = Some(doc! { "version": 1 });
        options.sort = Some(doc! { "finishedAt": 1 });
        options.hint = Some(hint("dead"));
        options.limit = Some(limit);
        let oldest = transaction.find(OUTBOX, filter, options).await?;
        if oldest.is_empty() {
            transaction.abort().await;
            return Ok(Redriven::Again(Vec::new()));
        }
        let set = rawdoc! { "state": "pending", "queue": Class::Retry.queue(endpoint), "due": now, "redriven": true };
        let change = (set, rawdoc! { "finishedAt": 1, "reason": 1 });
        let refused = self.change_in_transaction(&mut transaction, endpoint, &oldest, change);
        if let Some(error) = refused.await? {
            transaction.abort().await;
            return Ok(Redriven::Refused(error));
        }
        transaction.commit().await?;
        tell_of_versions(endpoint, &oldest);
        let ids = oldest.iter().filter_map(|document| id_of(document));
        let heads = ids.map(|id| Head::retry(endpoint, id.into(), now));
        Ok(Redriven::Again(heads.collect()))
    }

    /// The state of each of these documents that is there, by `_id`.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn states_of(&self, ids: &[&str]) -> Result<HashMap<String, DocumentState>> {
        let mut states = HashMap::new();
        if ids.is_empty() {
            return Ok(states);
        }
        let outbox = self.store.outbox();
        let found = outbox.find(doc! { "_id": { "$in": ids } });
        let mut cursor = found.projection(doc! { "state": 1, "finishedAt": 1 }).await?;
        while let Some(row) = cursor.try_next().await? {
            if let (Ok(id), Ok(state)) = (row.get_str("_id"), row.get_str("state")) {
                let document = DocumentState {
                    state: state.to_owned(),
                    ended: row.get_datetime("finishedAt").ok(),
                };
                states.insert(id.to_owned(), document);
            }
        }
        Ok(states)
    }
}
