//! The lease for finding events: one instance scans and watches at a time.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::options::ReturnDocument;

use super::Cluster;
use crate::store::{LEASE, Result};

/// What was read with a heartbeat that is younger needs not be read again: see [`ALIVE`](super::ALIVE).
const FRESH: Duration = Duration::from_secs(1);

impl Cluster {
    /// Takes the lease, which was read as `held` with the last heartbeat, if nobody alive holds it; whoever is faster has it. Returns its
    /// number if this instance holds it: a later holder's number is higher.
    pub(super) async fn take_lease(&self, held: Option<Document>, alive: &[String]) -> Result<Option<i64>> {
        let state = self.store.state();
        let held = match self.age() {
            Some(age) if age < FRESH => held,
            // Another may have taken it since.
            _ => state.find_one(doc! { "_id": LEASE }).await?,
        };
        if let Some(lease) = &held
            && lease.get_i64("number").is_ok()
            && let Ok(holder) = lease.get_str("holder")
            && alive.iter().any(|id| id == holder)
        {
            return Ok(self.number(lease));
        }
        let broken = doc! { "number": { "$not": { "$type": "long" } } };
        let filter = doc! { "_id": LEASE, "$or": [{ "holder": { "$nin": alive } }, broken] };
        let take = state.find_one_and_update(filter, self.taken());
        match take.upsert(true).return_document(ReturnDocument::After).await {
            Ok(lease) => Ok(lease.and_then(|lease| self.number(&lease))),
            Err(error) => {
                let error = crate::store::Error::from(error);
                // Another instance took it since we looked: the upsert met its document.
                if error.is_duplicate() { Ok(None) } else { Err(error) }
            }
        }
    }

    /// The lease when this instance has taken it. Its number is no less than the time, so that it is higher than that of any
    /// holder before, although somebody has deleted the lease since.
    fn taken(&self) -> Vec<Document> {
        let next = doc! { "$cond": [{ "$eq": [{ "$type": "$number" }, "long"] }, { "$add": ["$number", 1] }, 0] };
        let number = doc! { "$max": [next, { "$toLong": "$$NOW" }] };
        vec![doc! { "$set": { "holder": { "$literal": &**self.instance_id() }, "since": "$$NOW", "number": number } }]
    }

    /// Gives the lease up, if this instance holds it.
    pub(super) async fn give_up_lease(&self) -> Result<()> {
        let filter = doc! { "_id": LEASE, "holder": &**self.instance_id() };
        let update = doc! { "$unset": { "holder": 1 } };
        self.store.state().update_one(filter, update).await?;
        Ok(())
    }

    /// The number of a lease that this instance holds.
    fn number(&self, lease: &Document) -> Option<i64> {
        let is_mine = lease
            .get_str("holder")
            .is_ok_and(|holder| holder == &**self.instance_id());
        is_mine.then(|| lease.get_i64("number").unwrap_or(0))
    }
}
