//! New deliveries. Durable first: when these functions return, the event survives anything.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use bson::{DateTime, RawBson, RawDocumentBuf, doc, rawdoc};

use super::document::{Birth, id_list};
use super::{NewDelivery, Outbox, Slot};
use crate::kill_point;
use crate::model::{EventId, EventType};
use crate::store::{DELIVERIES, Result, Stopped};

/// More than this in one command would pass MongoDB's message limit of 16 MB for a document.
const COMMAND_BYTES: usize = 8 << 20;

/// What became of an append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Deliveries that are new.
    pub fresh: usize,
    /// Deliveries that were there already.
    pub known: usize,
}

/// Deliveries that are in the outbox but must not be sent before their BadgeUsers are marked: see [`Outbox::confirm`].
#[must_use = "staged deliveries go out when they are confirmed"]
pub struct Staged {
    rows: Vec<Row>,
    claim: i64,
    /// What was new and what was not.
    pub appended: Appended,
}

struct Row {
    delivery: NewDelivery,
    slot: Option<Box<dyn Slot>>,
    fresh: bool,
}

/// A document that can't be an event, kept for the operator.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// What it would have been.
    pub event_type: EventType,
    /// The BadgeUser's `_id`.
    pub badge_user: RawBson,
    /// The part of the key that tells this rejection from a later one: the event's id.
    pub event_id: EventId,
    /// What is wrong, in one line.
    pub reason: String,
}

impl Outbox {
    /// Writes deliveries that may go out at once.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write.
    pub async fn append(&self, deliveries: Vec<NewDelivery>, now: DateTime) -> std::result::Result<Appended, Stopped> {
        let (mut rows, claim) = self.write(deliveries, now, false).await?;
        kill_point::reach("appended");
        let appended = count(&rows);
        for row in &mut rows {
            if let (true, Some(slot)) = (row.fresh, row.slot.take()) {
                slot.fill(row.delivery.claimed(claim));
            }
        }
        self.announce(&rows);
        Ok(appended)
    }

    /// Writes deliveries that go out once their BadgeUsers are marked.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write.
    pub async fn stage(&self, deliveries: Vec<NewDelivery>, now: DateTime) -> std::result::Result<Staged, Stopped> {
        let (rows, claim) = self.write(deliveries, now, true).await?;
        Ok(Staged {
            appended: count(&rows),
            rows,
            claim,
        })
    }

    /// Sends staged deliveries on their way, but for those of events in `renewed`, which are taken out again. Returns how many were
    /// taken out.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write.
    pub async fn confirm(&self, staged: Staged, renewed: &HashSet<EventId>) -> std::result::Result<usize, Stopped> {
        let Staged { mut rows, claim, .. } = staged;
        let (gone, kept): (Vec<_>, Vec<_>) = rows
            .drain(..)
            .partition(|row| renewed.contains(&row.delivery.message.event_id));
        let gone: Vec<_> = gone
            .iter()
            .filter(|row| row.fresh)
            .map(|row| row.delivery.id())
            .collect();
        let withdrawn = gone.len();
        self.withdraw(gone, claim).await?;
        let mut overflow = Vec::new();
        for mut row in kept.into_iter().filter(|row| row.fresh) {
            match row.slot.take() {
                Some(slot) => slot.fill(row.delivery.claimed(claim)),
                None => overflow.push(row),
            }
        }
        self.free(overflow.iter().map(|row| row.delivery.id()).collect(), claim)
            .await?;
        self.announce(&overflow);
        Ok(withdrawn)
    }

    /// Keeps a note of documents that can't be events. Writing one again changes nothing.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write.
    pub async fn reject(&self, rejected: &[Rejected], now: DateTime) -> std::result::Result<(), Stopped> {
        if rejected.is_empty() {
            return Ok(());
        }
        let notes: Vec<_> = rejected.iter().map(|one| encode_rejected(one, now)).collect();
        self.store
            .persist("record rejected documents", || {
                self.store.insert_rows(DELIVERIES, notes.iter())
            })
            .await?;
        Ok(())
    }

    async fn write(
        &self,
        deliveries: Vec<NewDelivery>,
        now: DateTime,
        unmarked: bool,
    ) -> std::result::Result<(Vec<Row>, i64), Stopped> {
        let claim = self.draw_claim();
        let mut rows: Vec<_> = deliveries.into_iter().map(|delivery| self.reserve(delivery)).collect();
        let documents: Vec<_> = rows
            .iter()
            .map(|row| {
                let held = unmarked || row.slot.is_some();
                let attempts = i32::from(row.slot.is_some());
                let claimed = Birth::Claimed {
                    owner: &self.owner,
                    number: claim,
                    unmarked,
                    attempts,
                };
                row.delivery.encode(now, if held { claimed } else { Birth::Pending })
            })
            .collect();
        let mut first = 0;
        for chunk in chunks(&documents) {
            let known = self.insert(chunk, claim).await?;
            for index in known {
                rows[first + index].fresh = false;
                rows[first + index].slot = None;
            }
            first += chunk.len();
        }
        Ok((rows, claim))
    }

    fn reserve(&self, delivery: NewDelivery) -> Row {
        let slot = self.intake.reserve(&delivery.endpoint, delivery.message.body.len());
        Row {
            delivery,
            slot,
            fresh: true,
        }
    }

    /// Inserts one command's worth; returns the places of those that were there already.
    async fn insert(&self, documents: &[RawDocumentBuf], claim: i64) -> std::result::Result<Vec<usize>, Stopped> {
        let tries = AtomicU32::new(0);
        self.store
            .persist("append to the outbox", || async {
                let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
                let reply = self.store.insert_rows(DELIVERIES, documents.iter()).await?;
                if let Some(other) = reply.errors.iter().find(|row| !row.is_duplicate()) {
                    return Err(refused(other.code));
                }
                let known: Vec<_> = reply.errors.iter().map(|row| row.index).collect();
                if first {
                    Ok(known)
                } else {
                    self.without_ours(documents, known, claim).await
                }
            })
            .await
    }

    /// After a lost answer: what is there already may be what we wrote. Returns the places that are not ours.
    async fn without_ours(&self, documents: &[RawDocumentBuf], known: Vec<usize>, claim: i64) -> Result<Vec<usize>> {
        let ids = known
            .iter()
            .filter_map(|index| super::document::id_of(&documents[*index]));
        let filter = doc! { "_id": { "$in": id_list(ids) }, "claim.by": &*self.owner, "claim.n": claim };
        let ours: HashSet<String> = self.ids(filter).await?.into_iter().collect();
        let is_ours = |index: &usize| super::document::id_of(&documents[*index]).is_some_and(|id| ours.contains(&id));
        Ok(known.into_iter().filter(|index| !is_ours(index)).collect())
    }

    async fn withdraw(&self, ids: Vec<String>, claim: i64) -> std::result::Result<(), Stopped> {
        if ids.is_empty() {
            return Ok(());
        }
        let filter = doc! { "_id": { "$in": id_list(ids) }, "claim.by": &*self.owner, "claim.n": claim };
        self.store
            .persist("withdraw renewed certificates", || async {
                self.store.deliveries().delete_many(filter.clone()).await
            })
            .await?;
        Ok(())
    }

    /// Turns our claims into pending deliveries.
    async fn free(&self, ids: Vec<String>, claim: i64) -> std::result::Result<(), Stopped> {
        if ids.is_empty() {
            return Ok(());
        }
        let filter = doc! { "_id": { "$in": id_list(ids) }, "claim.by": &*self.owner, "claim.n": claim };
        let update = doc! { "$set": { "state": "pending" }, "$unset": { "claim": 1, "unmarked": 1 } };
        self.store
            .persist("free staged deliveries", || async {
                self.store
                    .deliveries()
                    .update_many(filter.clone(), update.clone())
                    .await
            })
            .await?;
        Ok(())
    }

    fn announce(&self, rows: &[Row]) {
        let mut waiting = rows
            .iter()
            .filter(|row| row.fresh && row.slot.is_none())
            .map(|row| &row.delivery.endpoint);
        self.intake.pending(&mut waiting);
    }
}

fn count(rows: &[Row]) -> Appended {
    let fresh = rows.iter().filter(|row| row.fresh).count();
    Appended {
        fresh,
        known: rows.len() - fresh,
    }
}

fn refused(code: i32) -> mongodb::error::Error {
    mongodb::error::Error::custom(format!("a row was refused with code {code}"))
}

/// Cuts the documents into runs that fit in one command.
fn chunks(documents: &[RawDocumentBuf]) -> impl Iterator<Item = &[RawDocumentBuf]> {
    let mut rest = documents;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|document| {
            bytes += document.as_bytes().len();
            bytes <= COMMAND_BYTES
        });
        let (head, tail) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = tail;
        (!head.is_empty()).then_some(head)
    })
}

fn encode_rejected(rejected: &Rejected, now: DateTime) -> RawDocumentBuf {
    rawdoc! {
        "_id": format!("rejected/{}", rejected.event_id),
        "v": 1,
        "state": "rejected",
        "eventType": rejected.event_type.as_str(),
        "badgeUserId": rejected.badge_user.clone(),
        "reason": rejected.reason.as_str(),
        "createdAt": now,
        "finishedAt": now,
    }
}
