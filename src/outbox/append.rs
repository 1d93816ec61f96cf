//! New deliveries. Durable first: when these functions return, the event survives anything.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bson::{DateTime, RawDocumentBuf, doc};

use super::document::{Birth, id_list, id_of};
use super::{NewDelivery, Outbox, Slot};
use crate::kill_point;
use crate::store::{DELIVERIES, Result, Stopped, Unit, WriteReply};

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

/// Deliveries that are written. Those that have a place in the queue are claimed by this daemon: once they are certainly in the
/// outbox they are to be released.
#[must_use = "what is not released waits until this daemon ends"]
pub(crate) struct Written {
    rows: Vec<Row>,
    claim: i64,
    known: usize,
    /// When what they tell of was found.
    found: (DateTime, Instant),
}

struct Row {
    delivery: NewDelivery,
    slot: Option<Box<dyn Slot>>,
}

impl Outbox {
    /// Writes deliveries and sends them on their way.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write.
    pub async fn append(&self, deliveries: Vec<NewDelivery>, now: DateTime) -> std::result::Result<Appended, Stopped> {
        let mut written = self.reserve(deliveries, now, true);
        let documents = self.encode(&written, now);
        let mut known = HashSet::new();
        for (first, chunk) in chunks(&documents) {
            let there = self.insert(chunk, written.claim).await?;
            known.extend(there.into_iter().map(|index| first + index));
        }
        kill_point::reach("appended");
        written.forget(&known);
        Ok(self.release(written))
    }

    /// Writes deliveries as a part of `unit`; when that is committed, [`Outbox::release`] sends them on their way. A delivery
    /// that is there already would spoil a transaction: so they are looked for before, if `looking`.
    ///
    /// # Errors
    /// MongoDB did not do it, or did not confirm it: the unit is spoiled.
    pub(crate) async fn append_within(
        &self,
        unit: &mut Unit,
        deliveries: Vec<NewDelivery>,
        looking: bool,
        now: DateTime,
    ) -> Result<Written> {
        let there = match looking {
            true => self.there(unit, &deliveries).await?,
            false => HashSet::new(),
        };
        let (old, new): (Vec<_>, Vec<_>) = deliveries
            .into_iter()
            .partition(|delivery| there.contains(&delivery.id()));
        // Single writes may come again after a lost answer, under another claim: the first would never be released.
        let mut written = self.reserve(new, now, unit.is_atomic());
        let documents = self.encode(&written, now);
        let mut known = HashSet::new();
        for (first, chunk) in chunks(&documents) {
            let there = duplicates(&unit.insert(DELIVERIES, chunk.iter()).await?)?;
            known.extend(there.into_iter().map(|index| first + index));
        }
        written.forget(&known);
        written.known += old.len();
        Ok(written)
    }

    /// Lets the queue have what it has places for, and tells it of the rest.
    pub(crate) fn release(&self, written: Written) -> Appended {
        let Written {
            rows,
            claim,
            known,
            found: (now, began),
        } = written;
        let events = rows.iter().map(|row| (&row.delivery.message, &row.delivery.endpoint));
        self.tracer.found(events, now, began.elapsed());
        let fresh = rows.len();
        let mut waiting = Vec::new();
        for Row { delivery, slot } in rows {
            match slot {
                Some(slot) => slot.fill(delivery.claimed(claim)),
                None => waiting.push(delivery.endpoint),
            }
        }
        self.intake.pending(&mut waiting.iter());
        Appended { fresh, known }
    }

    /// Places for as many as the queue has room for, if they are to be `queued` at once.
    fn reserve(&self, deliveries: Vec<NewDelivery>, now: DateTime, queued: bool) -> Written {
        let place = |delivery: &NewDelivery| self.intake.reserve(&delivery.endpoint, delivery.message.body.len());
        let row = |delivery: NewDelivery| Row {
            slot: if queued { place(&delivery) } else { None },
            delivery,
        };
        Written {
            rows: deliveries.into_iter().map(row).collect(),
            claim: self.draw_claim(),
            known: 0,
            found: (now, Instant::now()),
        }
    }

    /// What has a place in the queue is born claimed.
    fn encode(&self, written: &Written, now: DateTime) -> Vec<RawDocumentBuf> {
        let claimed = Birth::Claimed {
            owner: &self.owner,
            number: written.claim,
        };
        let document = |row: &Row| {
            let birth = row.slot.as_ref().map_or(Birth::Pending, |_| claimed);
            row.delivery.encode(now, birth)
        };
        written.rows.iter().map(document).collect()
    }

    async fn there(&self, unit: &mut Unit, deliveries: &[NewDelivery]) -> Result<HashSet<String>> {
        if deliveries.is_empty() {
            return Ok(HashSet::new());
        }
        let ids = id_list(deliveries.iter().map(NewDelivery::id));
        let mut options = mongodb::options::FindOptions::default();
        options.projection = Some(doc! { "_id": 1 });
        let filter = doc! { "_id": { "$in": ids } };
        let found = unit.find(&self.store.deliveries(), filter, options, usize::MAX).await?;
        Ok(found.iter().filter_map(|document| id_of(document)).collect())
    }

    /// Inserts one command's worth; returns the places of those that were there already.
    async fn insert(&self, documents: &[RawDocumentBuf], claim: i64) -> std::result::Result<Vec<usize>, Stopped> {
        let tries = AtomicU32::new(0);
        self.store
            .persist("append to the outbox", || async {
                let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
                let known = duplicates(&self.store.insert_rows(DELIVERIES, documents.iter()).await?)?;
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
        let ids = known.iter().filter_map(|index| id_of(&documents[*index]));
        let filter = doc! { "_id": { "$in": id_list(ids) }, "claim.by": &*self.owner, "claim.n": claim };
        let ours: HashSet<String> = self.ids(filter).await?.into_iter().collect();
        let is_ours = |index: &usize| id_of(&documents[*index]).is_some_and(|id| ours.contains(&id));
        Ok(known.into_iter().filter(|index| !is_ours(index)).collect())
    }
}

impl Written {
    /// How many deliveries were there already.
    pub(crate) fn known(&self) -> usize {
        self.known
    }

    /// The rows at these places are somebody else's.
    fn forget(&mut self, known: &HashSet<usize>) {
        let mut place = 0..;
        self.rows
            .retain(|_| place.next().is_none_or(|place| !known.contains(&place)));
        self.known += known.len();
    }
}

/// The places of the rows that were there already.
fn duplicates(reply: &WriteReply) -> Result<Vec<usize>> {
    match reply.errors.iter().find(|row| !row.is_duplicate()) {
        Some(other) => Err(mongodb::error::Error::custom(format!(
            "a row was refused with code {}",
            other.code
        ))),
        None => Ok(reply.errors.iter().map(|row| row.index).collect()),
    }
}

/// Cuts the documents into runs that fit in one command, each with the place of its first.
fn chunks(documents: &[RawDocumentBuf]) -> impl Iterator<Item = (usize, &[RawDocumentBuf])> {
    let mut rest = documents;
    std::iter::from_fn(move || {
        let first = documents.len() - rest.len();
        let mut bytes = 0;
        let fits = rest.iter().take_while(|document| {
            bytes += document.as_bytes().len();
            bytes <= COMMAND_BYTES
        });
        let (head, tail) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = tail;
        (!head.is_empty()).then_some((first, head))
    })
}
