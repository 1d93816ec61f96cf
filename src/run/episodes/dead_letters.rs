//! Telling the platform of dead letters.

use std::collections::HashMap;

use bson::{Document, rawdoc};

use super::Keeper;
use super::write::{Change, commit, fitting, read};
use crate::model::{EndpointKey, later};
use crate::notices::{Dead, Untold, of_dead_letters};
use crate::outbox::state_id;
use crate::store::{Result, Writer};

impl Keeper {
    /// Tells the platform of the dead letters of these endpoints, each endpoint's at most once in
    /// [`super::DEAD_EVERY`]: the others are told of later. Returns the endpoints that did not fit into the transaction.
    ///
    /// # Errors
    /// Nothing was written, or it is not known whether that was.
    pub(super) async fn tell_of_dead_letters(&mut self, endpoints: &[EndpointKey]) -> Result<Vec<EndpointKey>> {
        let engine = self.engine.clone();
        let mut transaction = engine.store.begin(Writer::Upkeep).await?;
        let ids = endpoints.iter().map(state_id).collect();
        let untold = untold(&read(&mut transaction, ids).await?);
        // Read after they were counted: where there is none, all have become something else.
        let mut last = engine.outbox.last_dead_letters(endpoints).await?;
        let (now, terms) = (engine.clock.now(), self.terms());
        let (mut told, mut changes) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let id = state_id(endpoint);
            let untold = untold.get(&id).copied().unwrap_or_default();
            if untold.dead == 0 {
                self.dead.set(endpoint, None);
                continue;
            }
            let next = untold.next(self.dead_every, now);
            if next > now {
                self.dead.set(endpoint, Some(next));
                continue;
            }
            let last = last.remove(endpoint);
            if last.is_none() && engine.outbox.has_retries(endpoint).await? {
                // One that goes out again by itself is not counted again if it fails.
                self.dead.set(endpoint, Some(later(now, self.dead_every / 60)));
                continue;
            }
            let told_at = rawdoc! { "deadToldAt": now };
            let none_is_untold = rawdoc! { "deadUntold": 1, "keptUntold": 1 };
            let update = match last {
                Some(_) => rawdoc! { "$set": told_at, "$unset": none_is_untold },
                None => rawdoc! { "$unset": none_is_untold },
            };
            let notice = last.map(|last| {
                let dead = Dead {
                    count: untold.dead,
                    kept: untold.kept,
                    last,
                };
                of_dead_letters(endpoint, &engine.directory.name(endpoint), &dead, &terms, now)
            });
            changes.push(Change::new(id, update, notice.into_iter().collect()));
            told.push(endpoint.clone());
        }
        if changes.is_empty() {
            transaction.abort().await;
            return Ok(Vec::new());
        }
        let left = told.split_off(fitting(&changes));
        changes.truncate(told.len());
        commit(&engine, transaction, changes).await?;
        told.iter().for_each(|endpoint| self.dead.set(endpoint, None));
        Ok(left)
    }
}

/// What the state documents of endpoints say, by their `_id`s.
fn untold(documents: &[Document]) -> HashMap<String, Untold> {
    let id = |document: &Document| document.get_str("_id").ok().map(str::to_owned);
    let untold = documents.iter();
    untold.filter_map(|one| Some((id(one)?, Untold::read(one)))).collect()
}
