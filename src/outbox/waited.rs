//! Ending what has waited too long for an endpoint that is not served: `delivery.wait_for`.
//!
//! A delivery waits from when it was appended, from when it was last due, or from when its endpoint was no longer served, whichever is the
//! latest. So what was replayed, or must be retried, has all of the time before it. A probe of a suspended endpoint makes its delivery due
//! at that instant, after the others, and changes nothing of that: what it was probed with waits from its first attempt.

use bson::{Bson, DateTime, Document, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, cstr, doc, rawdoc};
use mongodb::Cursor;
use mongodb::options::FindOptions;

use super::apart::Apart;
use super::document::{hint, single_id};
use super::notes::dead_row;
use super::settled::settled;
use super::versions::{compared_row, raw, tell_of_versions};
use super::{Class, Outbox};
use crate::model::{EndpointKey, EventId};
use crate::statistics::Additions;
use crate::store::{Error, Kind, OUTBOX, Result, STATE, STATISTICS, Transaction, Writer};

/// Documents that are read at a time.
const READ: u32 = 100;

/// What a step did.
#[derive(Debug)]
pub enum Ended {
    /// This many deliveries are dead letters now.
    Deliveries(u64),
    /// MongoDB refuses to change one of the documents: it is left alone.
    Refused(Error),
    /// MongoDB refuses the note that the platform must be told.
    Untold(Error),
}

/// A document of which something waits.
#[derive(Clone, Debug)]
pub struct Waited {
    /// Its `_id`.
    pub id: Bson,
    /// When it was appended.
    pub since: DateTime,
    /// Whether it holds more than one delivery: each that waits becomes a document of its own.
    pub is_batch: bool,
}

/// What makes a dead letter.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    /// What the dead letter says.
    pub reason: &'a str,
    /// When.
    pub now: DateTime,
    /// Whether the statistics count it.
    pub is_counted: bool,
    /// Whether the platform must be told.
    pub is_told: bool,
}

impl Outbox {
    /// What waits for an endpoint and was due at `since` or before. What was appended later is among it: see [`Waited::read`].
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn due_before(&self, endpoint: &EndpointKey, since: DateTime) -> Result<Cursor<RawDocumentBuf>> {
        let queues = Class::ALL.map(|class| class.queue(endpoint));
        let filter = doc! {
            "state": "pending", "queue": { "$in": &queues[..] }, "due": { "$lte": since },
            "_id": { "$nin": self.left_alone(endpoint), "$gte": "" },
        };
        self.find_waiting(filter).await
    }

    /// What waits for a suspended endpoint and is due later than `since` because the endpoint was probed with it.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn probed_with(&self, endpoint: &EndpointKey, since: DateTime) -> Result<Cursor<RawDocumentBuf>> {
        let mut filter = probed_before(since);
        filter.extend(doc! {
            "state": "pending", "queue": Class::Retry.queue(endpoint), "due": { "$gt": since },
            "_id": { "$nin": self.left_alone(endpoint), "$gte": "" },
        });
        self.find_waiting(filter).await
    }

    async fn find_waiting(&self, filter: Document) -> Result<Cursor<RawDocumentBuf>> {
        let outbox = self.store.outbox();
        let find = outbox.find(filter).hint(hint("pending")).batch_size(READ);
        Ok(find.projection(doc! { "createdAt": 1, "deliveries.event": 1 }).await?)
    }

    /// Makes a dead letter of each delivery in these documents of an endpoint that still waits and was appended at `since` or before. Of
    /// documents with more than one delivery, one at a time.
    ///
    /// # Errors
    /// Nothing was changed: MongoDB refused or is unavailable, or somebody else wrote to one of the documents.
    pub async fn end_waiting(
        &self,
        endpoint: &EndpointKey,
        waited: &[Waited],
        since: DateTime,
        death: Death<'_>,
    ) -> Result<Ended> {
        let mut transaction = self.store.begin(Writer::Upkeep).await?;
        let is_batch = waited.iter().any(|waited| waited.is_batch);
        let found = self.still_waiting(&mut transaction, waited, since).await?;
        let ended = match is_batch {
            true => self.end_batch(&mut transaction, endpoint, &found, death).await?,
            false => self.end_singles(&mut transaction, endpoint, &found, death).await?,
        };
        let (deliveries, first_deaths) = match ended {
            Ok(counts) => counts,
            Err(error) => {
                transaction.abort().await;
                return Ok(Ended::Refused(error));
            }
        };
        if first_deaths > 0 {
            count_dead(&mut transaction, endpoint, first_deaths, death).await?;
            if let Some(error) = note_dead(&mut transaction, endpoint, first_deaths, death).await? {
                transaction.abort().await;
                return Ok(Ended::Untold(error));
            }
        }
        transaction.commit().await?;
        tell_of_versions(endpoint, &found);
        Ok(Ended::Deliveries(deliveries))
    }

    /// Those of the documents of which something still waits, whole if they hold more than one delivery.
    async fn still_waiting(
        &self,
        transaction: &mut Transaction,
        waited: &[Waited],
        since: DateTime,
    ) -> Result<Vec<RawDocumentBuf>> {
        let ids: Vec<_> = waited.iter().map(|waited| &waited.id).collect();
        let is_batch = waited.iter().any(|waited| waited.is_batch);
        let filter = doc! {
            "_id": { "$in": ids }, "state": "pending", "createdAt": { "$lte": since },
            "$or": [{ "due": { "$lte": since } }, probed_before(since)],
        };
        let mut options = FindOptions::default();
        options.projection = (!is_batch).then(|| doc! { "version": 1, "redriven": 1 });
        transaction.find(OUTBOX, filter, options).await
    }

    /// In place. Returns how many, and how many of them had not been dead letters before; or what MongoDB refuses.
    async fn end_singles(
        &self,
        transaction: &mut Transaction,
        endpoint: &EndpointKey,
        found: &[RawDocumentBuf],
        death: Death<'_>,
    ) -> Result<std::result::Result<(u64, i64), Error>> {
        let is_redriven = |document: &&RawDocumentBuf| document.get_bool("redriven").unwrap_or(false);
        let (again, first): (Vec<_>, Vec<_>) = found.iter().partition(is_redriven);
        for (documents, is_first) in [(&again, false), (&first, true)] {
            if documents.is_empty() {
                continue;
            }
            let documents: Vec<_> = documents.iter().map(|document| (*document).clone()).collect();
            let mut set = dead(death);
            if is_first {
                set.append(cstr!("deadSince"), death.now);
            }
            let change = (set, rawdoc! { "redriven": 1 });
            let refused = self.change_in_transaction(transaction, endpoint, &documents, change);
            if let Some(error) = refused.await? {
                return Ok(Err(error));
            }
        }
        let first = i64::try_from(first.len()).unwrap_or(i64::MAX);
        Ok(Ok((found.len() as u64, first)))
    }

    /// A dead letter is a document of its own. Returns how many there are, twice; or what MongoDB refuses.
    async fn end_batch(
        &self,
        transaction: &mut Transaction,
        endpoint: &EndpointKey,
        found: &[RawDocumentBuf],
        death: Death<'_>,
    ) -> Result<std::result::Result<(u64, i64), Error>> {
        let rows: Vec<_> = found.iter().filter_map(|batch| rows(batch, endpoint, death)).collect();
        let deliveries: usize = rows.iter().map(|rows| rows.len() - 1).sum();
        let rows: Vec<_> = rows.into_iter().flatten().collect();
        match transaction.update(OUTBOX, rows.iter()).await {
            Ok(_) => Ok(Ok((deliveries as u64, i64::try_from(deliveries).unwrap_or(i64::MAX)))),
            Err(error) if error.kind().is_of_content() && !found.is_empty() => {
                let id = Bson::try_from(raw(&found[0], "_id")).unwrap_or(Bson::Null);
                self.refuse(endpoint, id, &error);
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }
}

impl Waited {
    /// Whose document can't be read, waits on.
    pub fn read(found: &RawDocument) -> Option<Self> {
        Some(Self {
            id: Bson::try_from(raw(found, "_id")).ok()?,
            since: found.get_datetime("createdAt").ok()?,
            is_batch: found.get_array("deliveries").ok()?.into_iter().count() > 1,
        })
    }
}

/// Adds the dead letters to the statistics, if they count.
async fn count_dead(
    transaction: &mut Transaction,
    endpoint: &EndpointKey,
    first_deaths: i64,
    death: Death<'_>,
) -> Result<()> {
    if death.is_counted {
        let mut statistics = Additions::default();
        statistics.of(endpoint).dead = first_deaths;
        let rows = statistics.rows(death.now);
        transaction.update(STATISTICS, rows.iter()).await?;
    }
    Ok(())
}

/// Notes that the platform must be told of them, if it is. Returns what MongoDB refuses.
async fn note_dead(
    transaction: &mut Transaction,
    endpoint: &EndpointKey,
    first_deaths: i64,
    death: Death<'_>,
) -> Result<Option<Error>> {
    if !death.is_told {
        return Ok(None);
    }
    let rows = [dead_row(endpoint, first_deaths)];
    match transaction.update(STATE, rows.iter()).await {
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), Kind::Refused | Kind::Denied | Kind::TooLarge) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// What was last attempted as a probe, at the instant at which it is due, and first at `since` or before. A replay removes the latter.
fn probed_before(since: DateTime) -> Document {
    doc! { "$expr": { "$eq": ["$due", "$lastAttemptAt"] }, "firstAttemptAt": { "$lte": since } }
}

/// What a dead letter says of its death. It does not go out by itself: it is as old as `delivery.wait_for`.
fn dead(death: Death<'_>) -> RawDocumentBuf {
    rawdoc! { "state": "dead", "reason": death.reason, "finishedAt": death.now, "redrivable": false }
}

/// The row that settles a batch, and one for each delivery that leaves it; `None` if one of them can't be read: the batch waits on.
fn rows(batch: &RawDocument, endpoint: &EndpointKey, death: Death<'_>) -> Option<Vec<RawDocumentBuf>> {
    let (results, deliveries) = (batch.get_array("results").ok()?, batch.get_array("deliveries").ok()?);
    let is_settled = settled(results);
    let mut rows = vec![RawDocumentBuf::new()];
    let mut all = RawArrayBuf::new();
    for (index, delivery) in deliveries.into_iter().enumerate() {
        if is_settled.get(index).copied().unwrap_or(false) {
            let result = results.get(index).ok().flatten();
            all.push(result.map_or(RawBson::Null, RawBson::from));
            continue;
        }
        all.push(rawdoc! { "at": death.now, "moved": true });
        rows.push(apart(batch, delivery.ok()?.as_document()?, endpoint, death)?);
    }
    let set = rawdoc! { "state": "delivered", "finishedAt": death.now, "open": 0, "results": all };
    rows[0] = compared_row(batch, set, rawdoc! {});
    Some(rows)
}

/// A document of its own for a delivery.
fn apart(
    batch: &RawDocument,
    delivery: &RawDocument,
    endpoint: &EndpointKey,
    death: Death<'_>,
) -> Option<RawDocumentBuf> {
    let event = EventId::from_stored(delivery.get_str("event").ok()?);
    let mut set = dead(death);
    set.append(cstr!("deadSince"), death.now);
    let apart = Apart {
        endpoint,
        entry: delivery.to_owned(),
        is_replay: batch.get_bool("replay").unwrap_or(false),
        created_at: raw(batch, "createdAt"),
        set,
        unset: ["redriven"].into_iter().collect(),
        history: None,
    };
    Some(apart.row(&single_id(&event, endpoint), death.now))
}
