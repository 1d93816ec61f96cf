//! Sending again what ended: dead letters by themselves when their endpoint answers, anything by an operator's word.

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;

use super::Outbox;
use super::document::{hint, id_of};
use crate::model::{EndpointKey, EventType};
use crate::store::{Result, Store};

/// What an operator wants sent again. What is left out is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A delivery's `_id`, or an event's id: then all its deliveries.
    pub id: Option<String>,
    /// An endpoint, as `OWNER/ENDPOINT` or its second part alone.
    pub endpoint: Option<String>,
    /// An organization.
    pub owner: Option<String>,
    /// A type of event.
    pub event_type: Option<EventType>,
    /// What happened at this instant or later.
    pub from: Option<DateTime>,
    /// What happened before this instant.
    pub to: Option<DateTime>,
    /// States that have ended: `dead`, `cancelled`, `delivered`.
    pub states: Vec<String>,
}

impl Selection {
    /// As a filter on deliveries.
    pub fn filter(&self) -> Document {
        let mut all = vec![doc! { "state": { "$in": &self.states } }];
        if let Some(id) = &self.id {
            // An event's deliveries begin with its id and a slash; `0` comes after `/`.
            let event = doc! { "$gte": format!("{id}/"), "$lt": format!("{id}0") };
            all.push(doc! { "$or": [{ "_id": id }, { "_id": event }] });
        }
        if let Some(endpoint) = &self.endpoint {
            let part = doc! { "$eq": [{ "$arrayElemAt": [{ "$split": ["$endpoint", "/"] }, 1] }, endpoint] };
            all.push(doc! { "$or": [{ "endpoint": endpoint }, { "$expr": part }] });
        }
        if let Some(owner) = &self.owner {
            all.push(doc! { "endpoint": { "$gte": format!("{owner}/"), "$lt": format!("{owner}0") } });
        }
        if let Some(event_type) = self.event_type {
            all.push(doc! { "eventType": event_type.as_str() });
        }
        if let Some(from) = self.from {
            all.push(doc! { "occurredAt": { "$gte": from } });
        }
        if let Some(to) = self.to {
            all.push(doc! { "occurredAt": { "$lt": to } });
        }
        doc! { "$and": all }
    }

    /// Makes what is selected pending again, with all its attempts before it; running daemons send it within a second. Returns
    /// how many.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn replay(&self, store: &Store) -> Result<u64> {
        let set = doc! { "$set": { "state": "pending", "attempts": 0, "due": "$occurredAt" } };
        let unset = doc! { "$unset": ["claim", "finishedAt", "firstAttemptAt", "deadSince", "redrivable", "reason"] };
        Ok(store
            .deliveries()
            .update_many(self.filter(), vec![set, unset])
            .await?
            .modified_count)
    }
}

impl Outbox {
    /// The endpoints of which some delivery died after `since`. Served by a distinct scan of the index on dead letters: its cost
    /// grows with the endpoints that have some.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn with_dead_letters(&self, since: DateTime) -> Result<Vec<EndpointKey>> {
        let pipeline = [
            doc! { "$sort": { "endpoint": -1, "finishedAt": -1 } },
            doc! { "$group": { "_id": "$endpoint", "last": { "$first": "$finishedAt" } } },
            doc! { "$match": { "last": { "$gt": since } } },
        ];
        let deliveries = self.store.deliveries();
        let mut cursor = deliveries.aggregate(pipeline).hint(hint("dead")).await?;
        let mut endpoints = Vec::new();
        while let Some(row) = cursor.try_next().await? {
            endpoints.extend(row.get_str("_id").map(EndpointKey::from_stored));
        }
        Ok(endpoints)
    }

    /// Makes up to `limit` dead letters of an endpoint pending again, for one more attempt each; those that died at `since` or
    /// before are left alone. The oldest come first, those that were tried again come last. Returns their ids.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn redrive(
        &self,
        endpoint: &EndpointKey,
        since: DateTime,
        limit: i64,
        now: DateTime,
    ) -> Result<Vec<String>> {
        // Who died first after `since` has not died last before it: the index leaves these out.
        let filter = doc! {
            "state": "dead", "endpoint": endpoint.as_str(), "finishedAt": { "$gt": since },
            "deadSince": { "$gt": since }, "redrivable": true,
        };
        let deliveries = self.store.deliveries();
        let oldest = deliveries
            .find(filter.clone())
            .projection(doc! { "_id": 1 })
            .sort(doc! { "finishedAt": 1 })
            .hint(hint("dead"));
        let oldest: Vec<_> = oldest.limit(limit).await?.try_collect().await?;
        let ids: Vec<_> = oldest.iter().filter_map(|document| id_of(document)).collect();
        let again = doc! { "$set": { "state": "pending", "due": now }, "$unset": { "finishedAt": 1, "reason": 1 } };
        let mut chosen = filter;
        chosen.insert("_id", doc! { "$in": &ids });
        deliveries.update_many(chosen, again).await?;
        Ok(ids)
    }

    /// The state of a delivery; `None` if it is gone.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn state_of(&self, id: &str) -> Result<Option<String>> {
        let found = self
            .store
            .deliveries()
            .find_one(doc! { "_id": id })
            .projection(doc! { "state": 1 })
            .await?;
        Ok(found.and_then(|document| document.get_str("state").ok().map(str::to_owned)))
    }
}
