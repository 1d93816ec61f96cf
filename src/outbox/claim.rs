//! Taking deliveries out of the outbox: which endpoints have something due, claiming it, and adopting what the dead left.

use std::collections::HashSet;

use bson::{DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use tracing::warn;

use super::document::{decode, hint, id_list, id_of};
use super::{Claimed, Outbox};
use crate::kill_point;
use crate::model::EndpointKey;
use crate::store::{DELIVERIES, Result};

/// Bodies of at most so many bytes are claimed in one call.
const CLAIM_BYTES: usize = 16 << 20;

/// Endpoints asked for in one command: one for each costs MongoDB and us more than reading what they have. MongoDB allows a
/// pipeline 1,000 stages.
const LANES: usize = 100;

impl Outbox {
    /// Each endpoint with pending deliveries and when its first one is due. Served by a distinct scan of the index on
    /// pending deliveries: its cost grows with the endpoints, not with the backlog. The index holds nothing else, so the state is
    /// not asked for: that would have every pending document fetched.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn waiting(&self) -> Result<Vec<(EndpointKey, DateTime)>> {
        let pipeline = [
            doc! { "$sort": { "endpoint": 1, "due": 1 } },
            doc! { "$group": { "_id": "$endpoint", "due": { "$first": "$due" } } },
        ];
        let mut cursor = self
            .store
            .deliveries()
            .aggregate(pipeline)
            .hint(hint("pending"))
            .await?;
        let mut waiting = Vec::new();
        while let Some(row) = cursor.try_next().await? {
            if let (Ok(key), Ok(due)) = (row.get_str("_id"), row.get_datetime("due")) {
                waiting.push((EndpointKey::from_stored(key), *due));
            }
        }
        Ok(waiting)
    }

    /// Claims for each endpoint up to so many deliveries that are due at `now`, the earliest first. An attempt is counted
    /// with the claim, before anything is sent.
    ///
    /// # Errors
    /// MongoDB is away. What was claimed all the same is freed by [`Outbox::free_claims`].
    pub async fn claim(
        &self,
        wants: &[(EndpointKey, usize)],
        now: DateTime,
    ) -> std::result::Result<Vec<Claimed>, LostClaim> {
        let number = self.draw_claim();
        let lost = |_error| LostClaim { number };
        let mut found = Vec::new();
        let mut room = CLAIM_BYTES;
        for lanes in wants.chunks(LANES) {
            if room == 0 {
                break;
            }
            self.find_due(lanes, now, &mut found, &mut room).await.map_err(lost)?;
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        self.take(found, number).await.map_err(lost)
    }

    /// Reads what is due at those endpoints, until `room` bytes are used up.
    async fn find_due(
        &self,
        lanes: &[(EndpointKey, usize)],
        now: DateTime,
        found: &mut Vec<RawDocumentBuf>,
        room: &mut usize,
    ) -> Result<()> {
        let wanted = lanes.iter().map(|(_, limit)| limit).sum::<usize>();
        let deliveries = self.store.deliveries();
        let due = deliveries.aggregate(all_due(lanes, now)).with_type::<RawDocumentBuf>();
        let mut cursor = due.batch_size(u32::try_from(wanted).unwrap_or(u32::MAX)).await?;
        while *room > 0
            && let Some(document) = cursor.try_next().await?
        {
            *room = room.saturating_sub(document.as_bytes().len());
            found.push(document);
        }
        Ok(())
    }

    /// Claims those documents, as far as no other daemon was faster.
    async fn take(&self, found: Vec<RawDocumentBuf>, number: i64) -> Result<Vec<Claimed>> {
        let ids: Vec<_> = found.iter().filter_map(|document| id_of(document)).collect();
        let wanted = ids.len();
        let filter = doc! { "_id": { "$in": id_list(ids) }, "state": "pending" };
        let claim = doc! { "by": &*self.owner, "n": number };
        let update = doc! { "$set": { "state": "claimed", "claim": claim }, "$inc": { "attempts": 1 } };
        let done = self.store.deliveries().update_many(filter, update).await?;
        kill_point::reach("claimed");
        let mut claimed: Vec<_> = found
            .iter()
            .filter_map(|document| self.readable(document, number))
            .collect();
        if done.modified_count != wanted as u64 {
            let ours: HashSet<_> = self.ids(self.claim_filter(number)).await?.into_iter().collect();
            claimed.retain(|delivery| ours.contains(&delivery.id()));
        }
        Ok(claimed)
    }

    fn readable(&self, document: &RawDocumentBuf, number: i64) -> Option<Claimed> {
        decode(document, number)
            .inspect_err(|reason| {
                let id = id_of(document);
                warn!(delivery = id, %reason, "a delivery can't be read and stays claimed until this daemon ends");
            })
            .ok()
    }

    /// Gives back everything that was claimed under these numbers, as if nothing had happened.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn free_claims(&self, lost: impl Iterator<Item = &LostClaim>) -> Result<()> {
        let numbers: Vec<_> = lost.map(|lost| lost.number).collect();
        let filter = doc! { "state": "claimed", "claim.by": &*self.owner, "claim.n": { "$in": numbers } };
        let update = doc! { "$set": { "state": "pending" }, "$inc": { "attempts": -1 }, "$unset": { "claim": 1 } };
        self.store.deliveries().update_many(filter, update).await?;
        Ok(())
    }

    /// Frees the claims of every owner that is not in `live`. Returns how many became pending.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn adopt(&self, live: &[String]) -> Result<u64> {
        let filter = doc! { "state": "claimed", "claim.by": { "$nin": live } };
        let update = doc! { "$set": { "state": "pending" }, "$unset": { "claim": 1 } };
        Ok(self
            .store
            .deliveries()
            .update_many(filter, update)
            .await?
            .modified_count)
    }

    pub(super) async fn ids(&self, filter: Document) -> Result<Vec<String>> {
        let mut cursor = self
            .store
            .deliveries()
            .find(filter)
            .projection(doc! { "_id": 1 })
            .await?;
        let mut ids = Vec::new();
        while let Some(document) = cursor.try_next().await? {
            ids.extend(id_of(&document));
        }
        Ok(ids)
    }

    fn claim_filter(&self, number: i64) -> Document {
        doc! { "state": "claimed", "claim.by": &*self.owner, "claim.n": number }
    }
}

/// One query for each endpoint, answered one after the other: each is a range of the index on pending deliveries.
fn all_due(lanes: &[(EndpointKey, usize)], now: DateTime) -> Vec<Document> {
    let mut lanes = lanes.iter().map(|(endpoint, limit)| due(endpoint, *limit, now));
    let first = lanes.next().into_iter().flatten();
    let mut pipeline: Vec<_> = first.collect();
    pipeline.extend(lanes.map(|pipeline| doc! { "$unionWith": { "coll": DELIVERIES, "pipeline": pipeline } }));
    pipeline
}

fn due(endpoint: &EndpointKey, limit: usize, now: DateTime) -> Vec<Document> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    vec![
        doc! { "$match": { "state": "pending", "endpoint": endpoint.as_str(), "due": { "$lte": now } } },
        doc! { "$sort": { "due": 1 } },
        doc! { "$limit": limit },
    ]
}

/// A claim whose fate is unknown, because MongoDB went away while it was made.
#[derive(Clone, Copy, Debug)]
pub struct LostClaim {
    number: i64,
}
