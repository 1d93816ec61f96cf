//! Writing what became of deliveries: results of many batches, their retries and the statistics, in one transaction.

mod rows;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bson::{Bson, DateTime, RawDocumentBuf, doc};
use futures_util::TryStreamExt;

use super::document::{Batch, LAYOUT};
use super::settled::{open, settled};
use super::{Delivery, Head, Next, Outbox, notes};
use crate::failpoint;
use crate::statistics::Additions;
use crate::store::{self, OUTBOX, STATE, STATISTICS, Writer};

/// A delivery whose attempt has ended, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The delivery.
    pub delivery: Delivery,
    /// When the attempt ended.
    pub at: DateTime,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// How long until there was a connection, in milliseconds, where that is known.
    pub connect_ms: Option<u64>,
    /// What must be written.
    pub next: Next,
    /// Until when its endpoint is paused, if its response asked for that.
    pub paused_until: Option<DateTime>,
    /// Whether the platform must be told that it is a dead letter.
    pub must_tell_death: bool,
}

/// Why results were not recorded. Nothing of them was written.
#[derive(Debug)]
pub enum Unrecorded {
    /// Somebody else wrote to one of the batches since it was read: see [`Outbox::reconcile`].
    Outdated,
    /// MongoDB did not write the results or retries.
    Results(store::Error),
    /// MongoDB did not write the statistics.
    Statistics(store::Error),
    /// MongoDB did not write what they say of endpoints.
    Notes(store::Error),
}

impl Outbox {
    /// Records these results, and adds them to the statistics unless `counted` is false. Returns the retries, with when they are
    /// due.
    ///
    /// # Errors
    /// See [`Unrecorded`].
    pub async fn record(
        &self,
        settlements: &[Settlement],
        counted: bool,
        now: DateTime,
    ) -> Result<Vec<Head>, Unrecorded> {
        if settlements.iter().any(is_outdated) {
            return Err(Unrecorded::Outdated);
        }
        let batches = by_batch(settlements);
        let mut written = rows::Rows::default();
        for settlements in batches.values() {
            written.settle(settlements, &self.instance_id, now);
        }
        let mut transaction = self.store.begin(Writer::Recorder).await.map_err(Unrecorded::Results)?;
        let reply = transaction.update(OUTBOX, written.take_updates().iter()).await;
        let reply = reply.map_err(Unrecorded::Results)?;
        if reply.matched != written.documents {
            transaction.abort().await;
            return Err(Unrecorded::Outdated);
        }
        let notes = notes::rows(settlements);
        if !notes.is_empty() {
            let done = transaction.update(STATE, notes.iter()).await;
            done.map_err(Unrecorded::Notes)?;
        }
        if counted {
            let rows = written.statistics.rows(now);
            let done = transaction.update(STATISTICS, rows.iter()).await;
            done.map_err(Unrecorded::Statistics)?;
        }
        failpoint::reach("results-to-be-committed");
        transaction.commit().await.map_err(Unrecorded::Results)?;
        for settlements in batches.values() {
            let batch = &settlements[0].delivery.batch;
            count_recorded(batch, settlements.len());
        }
        Ok(written.retries)
    }

    /// Reads the batches of these results again, because somebody else wrote to one of them, and keeps the results that still
    /// count: those of deliveries that are open, but for failures of attempts that are recorded already, and successes of
    /// deliveries that were cancelled while in flight. Returns these, and those that no longer count.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn reconcile(&self, settlements: Vec<Settlement>) -> store::Result<(Vec<Settlement>, Vec<Settlement>)> {
        let ids: Vec<Bson> = by_batch(&settlements)
            .keys()
            .map(|id| Bson::String((*id).to_owned()))
            .collect();
        let outbox = self.store.outbox();
        let find = outbox
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "version": 1, "state": 1, "results": 1, "attempts": 1, "lastAttemptAt": 1 });
        let found: Vec<RawDocumentBuf> = find.await?.try_collect().await?;
        let now: HashMap<&str, &RawDocumentBuf> = found
            .iter()
            .filter_map(|document| Some((document.get_str("_id").ok()?, document)))
            .collect();
        Ok(settlements.into_iter().partition(|settlement| {
            let batch = &settlement.delivery.batch;
            now.get(&*batch.id)
                .is_some_and(|document| still_counts(document, batch, settlement))
        }))
    }

    /// Whether a write to the outbox that should be harmless succeeds: a refusal of a single batch is then that batch's own.
    /// What a crash leaves of it goes after the retention.
    pub async fn probe(&self, now: DateTime) -> store::Result<()> {
        let id = format!("probe/{}", self.instance_id);
        let outbox = self.store.outbox();
        let write = outbox.update_one(
            doc! { "_id": &id },
            doc! { "$set": { "v": LAYOUT, "state": "probe", "finishedAt": now } },
        );
        write.upsert(true).await?;
        outbox.delete_one(doc! { "_id": &id }).await?;
        Ok(())
    }
}

fn by_batch(settlements: &[Settlement]) -> BTreeMap<&str, Vec<&Settlement>> {
    let mut batches: BTreeMap<&str, Vec<&Settlement>> = BTreeMap::new();
    for settlement in settlements {
        batches
            .entry(&settlement.delivery.batch.id)
            .or_default()
            .push(settlement);
    }
    batches
}

/// Takes over what the document says now.
fn still_counts(document: &RawDocumentBuf, batch: &Arc<Batch>, settlement: &Settlement) -> bool {
    let number = |field| document.get_i32(field).unwrap_or(0);
    let state = document.get_str("state").unwrap_or_default();
    // Nothing can be compared with anything else: it is read again, and set aside then.
    let Ok(version) = document.get_i32("version") else {
        return false;
    };
    batch.version.store(version, Ordering::Relaxed);
    // Those of deliveries that are still in flight, too: their results come later.
    let settled = document.get_array("results").ok().map(settled);
    if let Some(settled) = &settled {
        batch.open.store(open(settled, batch.size), Ordering::Relaxed);
        let indexes = (0_u32..).zip(settled);
        batch.set_settled(indexes.filter_map(|(index, settled)| settled.then_some(index)));
    }
    batch.cancelled.store(state == "cancelled", Ordering::Relaxed);
    let index = settlement.delivery.index as usize;
    let is_settled = settled.is_some_and(|settled| settled.get(index).copied().unwrap_or(false));
    let delivered = matches!(settlement.next, Next::Delivered { .. });
    // Somebody else has recorded this attempt, or a later one.
    let is_counted = u32::try_from(number("attempts")).is_ok_and(|attempts| attempts >= settlement.delivery.attempt);
    // That of a probe is recorded without being counted.
    let is_late = is_counted
        || document
            .get_datetime("lastAttemptAt")
            .is_ok_and(|at| at == settlement.at);
    match state {
        "pending" => !is_settled && (delivered || !is_late),
        "cancelled" => !is_settled && delivered,
        _ => false,
    }
}

/// Whether somebody else has settled or cancelled it, as was seen when earlier results of its batch were recorded.
fn is_outdated(settlement: &Settlement) -> bool {
    let batch = &settlement.delivery.batch;
    let is_cancelled = batch.cancelled.load(Ordering::Relaxed);
    batch.is_settled(settlement.delivery.index) || (is_cancelled && !matches!(settlement.next, Next::Delivered { .. }))
}

/// Has the batch in memory say what its document says now.
fn count_recorded(batch: &Batch, results: usize) {
    batch.version.fetch_add(1, Ordering::Relaxed);
    let results = u32::try_from(results).unwrap_or(u32::MAX);
    let open = batch.open.load(Ordering::Relaxed);
    batch.open.fetch_sub(results.min(open), Ordering::Relaxed);
}

/// Adds a result to its endpoint's figures.
fn count(statistics: &mut Additions, settlement: &Settlement, was_cancelled: bool) {
    let delivery = &settlement.delivery;
    let figures = statistics.of(&delivery.endpoint);
    match &settlement.next {
        Next::Delivered { .. } => {
            figures.successes += 1;
            figures.cancelled -= i64::from(was_cancelled);
            figures.last_success = figures.last_success.max(Some(settlement.at));
        }
        Next::Retry { failure, .. } | Next::Dead { failure, .. } => {
            figures.failures += 1;
            // The first death counts.
            figures.dead += i64::from(matches!(settlement.next, Next::Dead { .. }) && !delivery.redriven);
            figures.last_failure = Some((settlement.at, failure.reason.clone()));
        }
        Next::Cancelled { .. } => figures.cancelled += 1,
    }
}
