//! The rows that record results: one per batch, and one per delivery that leaves its batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bson::raw::CStr;
use bson::{DateTime, RawArrayBuf, RawDocumentBuf, cstr, rawdoc};

use super::{Settlement, count};
use crate::model::Failure;
use crate::outbox::apart::Apart;
use crate::outbox::document::{Batch, HISTORY, encode_delivery, result_field, single_id};
use crate::outbox::{Class, Head, Next};
use crate::statistics::Additions;
use crate::store::update_row;

/// What one transaction writes.
#[derive(Default)]
pub(super) struct Rows {
    updates: Vec<RawDocumentBuf>,
    /// Documents of one delivery, by the version that they must have and the update, which many of them share.
    singles: HashMap<(i32, Vec<u8>), (RawDocumentBuf, RawArrayBuf)>,
    /// How many documents all these updates must match.
    pub(super) documents: usize,
    pub(super) retries: Vec<Head>,
    pub(super) statistics: Additions,
}

impl Rows {
    /// The rows of the update. Documents that change in the same way share one: finding a document by a row of its own costs MongoDB
    /// half as much again as changing it.
    pub(super) fn take_updates(&mut self) -> Vec<RawDocumentBuf> {
        let mut updates = std::mem::take(&mut self.updates);
        for ((version, _), (update, ids)) in self.singles.drain() {
            let filter = rawdoc! { "_id": { "$in": ids }, "version": version };
            updates.push(update_row(filter, update, true));
        }
        updates
    }

    /// Adds results of one batch.
    pub(super) fn settle(&mut self, settlements: &[&Settlement], instance_id: &str, now: DateTime) {
        let batch = &settlements[0].delivery.batch;
        let was_cancelled = batch.cancelled.load(Ordering::Relaxed);
        for settlement in settlements {
            count(&mut self.statistics, settlement, was_cancelled);
        }
        if batch.is_single() {
            let settlement = settlements[0];
            self.push_single(batch, single(settlement, instance_id, now));
            self.note_retry(settlement, &batch.id);
            return;
        }
        self.push(compared(batch, several(batch, settlements, now)));
        for settlement in settlements {
            if matches!(settlement.next, Next::Delivered { .. }) {
                continue;
            }
            let delivery = &settlement.delivery;
            let id: Arc<str> = single_id(&delivery.message.event_id, &delivery.endpoint).into();
            self.push(apart(&id, settlement, instance_id, now));
            self.note_retry(settlement, &id);
        }
    }

    fn push(&mut self, update: RawDocumentBuf) {
        self.updates.push(update);
        self.documents += 1;
    }

    fn push_single(&mut self, batch: &Batch, update: RawDocumentBuf) {
        let key = (batch.version.load(Ordering::Relaxed), update.as_bytes().to_vec());
        let (_, ids) = self.singles.entry(key).or_insert_with(|| (update, RawArrayBuf::new()));
        ids.push(&*batch.id);
        self.documents += 1;
    }

    fn note_retry(&mut self, settlement: &Settlement, id: &Arc<str>) {
        if let Next::Retry { due, .. } = settlement.next {
            self.retries
                .push(Head::retry(&settlement.delivery.endpoint, Arc::clone(id), due));
        }
    }
}

/// Only if nobody else wrote to the batch since it was read.
fn compared(batch: &Batch, update: RawDocumentBuf) -> RawDocumentBuf {
    let version = batch.version.load(Ordering::Relaxed);
    update_row(rawdoc! { "_id": &*batch.id, "version": version }, update, false)
}

/// Results of a batch of several deliveries. What was not delivered is marked as moved: it gets a document of its own.
fn several(batch: &Batch, settlements: &[&Settlement], now: DateTime) -> RawDocumentBuf {
    let open = batch.open.load(Ordering::Relaxed);
    let left = open.saturating_sub(u32::try_from(settlements.len()).unwrap_or(u32::MAX));
    let mut set = rawdoc! { "open": i32::try_from(left).unwrap_or(0) };
    if settlements.len() == batch.size as usize {
        let mut in_order = settlements.to_vec();
        in_order.sort_by_key(|settlement| settlement.delivery.index);
        let results: RawArrayBuf = in_order.into_iter().map(result).collect();
        set.append(cstr!("results"), results);
    } else {
        for settlement in settlements {
            set.append(result_field(settlement.delivery.index), result(settlement));
        }
    }
    if left == 0 {
        set.append(cstr!("state"), "delivered");
        set.append(cstr!("finishedAt"), now);
    }
    rawdoc! { "$set": set, "$inc": { "version": 1 } }
}

fn result(settlement: &Settlement) -> RawDocumentBuf {
    match settlement.next {
        Next::Delivered { status } => {
            rawdoc! { "at": settlement.at, "status": i32::from(status), "ms": ms(settlement) }
        }
        _ => rawdoc! { "at": settlement.at, "moved": true },
    }
}

/// The only delivery of a document: it becomes its own retry, or ends, in place.
fn single(settlement: &Settlement, instance_id: &str, now: DateTime) -> RawDocumentBuf {
    let (mut set, mut unset) = fields(settlement, now);
    let delivery = &settlement.delivery;
    if delivery.is_large() {
        unset.append(cstr!("begun"), 1);
    }
    if let Next::Delivered { .. } = settlement.next {
        let mut results = RawArrayBuf::new();
        results.push(result(settlement));
        set.append(cstr!("results"), results);
        set.append(cstr!("open"), 0);
    }
    let mut update = rawdoc! { "$set": set, "$inc": { "version": 1 } };
    if !unset.is_empty() {
        update.append(cstr!("$unset"), unset);
    }
    if keeps_history(settlement) {
        let history = rawdoc! { "$each": [attempt(settlement, instance_id)], "$slice": -HISTORY };
        update.append(cstr!("$push"), rawdoc! { "history": history });
    }
    if matches!(settlement.next, Next::Dead { .. }) {
        // The first death counts.
        update.append(cstr!("$min"), rawdoc! { "deadSince": now });
    }
    debug_assert!(delivery.index == 0);
    update
}

/// A document of its own for a delivery that leaves its batch.
fn apart(id: &str, settlement: &Settlement, instance_id: &str, now: DateTime) -> RawDocumentBuf {
    let delivery = &settlement.delivery;
    let (mut set, unset) = fields(settlement, now);
    if matches!(settlement.next, Next::Dead { .. }) {
        set.append(cstr!("deadSince"), now);
    }
    let attempt = keeps_history(settlement).then(|| attempt(settlement, instance_id));
    let apart = Apart {
        endpoint: &delivery.endpoint,
        entry: encode_delivery(&delivery.message, &delivery.certificate, delivery.occurred_at),
        is_replay: delivery.message.is_replay,
        created_at: now.into(),
        set,
        unset: unset.iter().flatten().map(|(name, _)| name.as_str()).collect(),
        history: Some(attempt.into_iter().collect()),
    };
    apart.row(id, now)
}

/// Fields that only a document has that has ended.
const ENDED: [&CStr; 4] = [
    cstr!("finishedAt"),
    cstr!("reason"),
    cstr!("redrivable"),
    cstr!("redriven"),
];

/// What an attempt sets and unsets in a document with one delivery.
fn fields(settlement: &Settlement, now: DateTime) -> (RawDocumentBuf, RawDocumentBuf) {
    let (delivery, at) = (&settlement.delivery, settlement.at);
    let mut attempts = i32::try_from(delivery.attempt).unwrap_or(i32::MAX);
    if matches!(&settlement.next, Next::Retry { failure, .. } if failure.is_probe) {
        attempts -= 1;
    }
    match &settlement.next {
        Next::Delivered { status } => {
            let set = rawdoc! {
                "state": "delivered", "finishedAt": now, "attempts": attempts, "lastAttemptAt": at, "lastStatus": i32::from(*status),
            };
            (set, without_death())
        }
        Next::Retry {
            due,
            first_attempt_at,
            failure,
        } => {
            let mut set = rawdoc! {
                "state": "pending", "queue": Class::Retry.queue(&delivery.endpoint), "due": *due,
                "attempts": attempts, "firstAttemptAt": *first_attempt_at,
            };
            failed(&mut set, failure, at);
            // An older copy may have ended: what waits must not be removed after the retention.
            (set, without(ENDED, failure))
        }
        Next::Dead {
            verdict,
            failure,
            redrivable,
        } => {
            let mut set = rawdoc! {
                "state": "dead", "reason": verdict.as_str(), "finishedAt": now, "redrivable": *redrivable, "attempts": attempts,
            };
            failed(&mut set, failure, at);
            (set, without([cstr!("redriven")], failure))
        }
        Next::Cancelled { reason } => {
            let set = rawdoc! { "state": "cancelled", "reason": reason.as_str(), "finishedAt": now };
            (set, rawdoc! { "redriven": 1 })
        }
    }
}

fn failed(set: &mut RawDocumentBuf, failure: &Failure, at: DateTime) {
    set.append(cstr!("lastAttemptAt"), at);
    set.append(cstr!("lastError"), failure.reason.as_str());
    if let Some(status) = failure.status {
        set.append(cstr!("lastStatus"), i32::from(status));
    }
}

/// An `$unset` of what a dead letter says of its death.
fn without_death() -> RawDocumentBuf {
    rawdoc! { "deadSince": 1, "redrivable": 1, "redriven": 1, "reason": 1 }
}

/// An `$unset` of these fields, and of the status of an earlier response where the attempt got none.
fn without<const N: usize>(fields: [&CStr; N], failure: &Failure) -> RawDocumentBuf {
    let mut unset = RawDocumentBuf::new();
    let status = failure.status.is_none().then_some(cstr!("lastStatus"));
    for field in fields.into_iter().chain(status) {
        unset.append(field, 1);
    }
    unset
}

/// A delivery that never failed has no history: its result says it all.
fn keeps_history(settlement: &Settlement) -> bool {
    match settlement.next {
        Next::Retry { .. } | Next::Dead { .. } => true,
        Next::Delivered { .. } => settlement.delivery.attempt > 1,
        Next::Cancelled { .. } => false,
    }
}

/// One entry of `history`.
fn attempt(settlement: &Settlement, instance_id: &str) -> RawDocumentBuf {
    let n = i32::try_from(settlement.delivery.attempt).unwrap_or(i32::MAX);
    let mut attempt = rawdoc! { "at": settlement.at, "instance": instance_id, "n": n, "ms": ms(settlement) };
    if let Some(connect) = settlement.connect_ms {
        attempt.append(cstr!("connectMs"), i32::try_from(connect).unwrap_or(i32::MAX));
    }
    if settlement.delivery.redriven {
        attempt.append(cstr!("redriven"), true);
    }
    if matches!(&settlement.next, Next::Retry { failure, .. } if failure.is_probe) {
        attempt.append(cstr!("probe"), true);
    }
    match &settlement.next {
        Next::Delivered { status } => attempt.append(cstr!("status"), i32::from(*status)),
        Next::Retry { failure, .. } => failed_attempt(&mut attempt, failure),
        Next::Dead { failure, verdict, .. } => {
            failed_attempt(&mut attempt, failure);
            // A redrive or a replay takes it out of the document.
            attempt.append(cstr!("reason"), verdict.as_str());
        }
        Next::Cancelled { .. } => {}
    }
    attempt
}

fn failed_attempt(attempt: &mut RawDocumentBuf, failure: &Failure) {
    if let Some(status) = failure.status {
        attempt.append(cstr!("status"), i32::from(status));
    }
    attempt.append(cstr!("error"), failure.reason.as_str());
    if let Some(response) = &failure.response {
        attempt.append(cstr!("response"), response.as_str());
    }
}

fn ms(settlement: &Settlement) -> i32 {
    i32::try_from(settlement.ms).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::document::testing::fetched;

    #[test]
    fn deliveries_alone_that_end_alike_share_a_row() {
        let at = DateTime::from_millis(1);
        // Endpoint, milliseconds, status, and the version of the batch.
        let table = [
            (vec![("a/1", 3, 200, 1), ("b/1", 3, 200, 1), ("c/1", 3, 200, 1)], 1),
            (vec![("a/1", 3, 200, 1), ("b/1", 4, 200, 1)], 2),
            (vec![("a/1", 3, 200, 1), ("b/1", 3, 204, 1)], 2),
            (vec![("a/1", 3, 200, 1), ("b/1", 3, 200, 2)], 2),
            (vec![("a/1", 3, 200, 1)], 1),
        ];
        for (results, expected) in table {
            let mut rows = Rows::default();
            for (endpoint, ms, status, version) in &results {
                let delivery = fetched(endpoint, "x", 1).deliveries.remove(0);
                delivery.batch.version.store(*version, Ordering::Relaxed);
                let next = Next::Delivered { status: *status };
                let settlement = Settlement {
                    delivery,
                    at,
                    ms: *ms,
                    connect_ms: None,
                    next,
                    paused_until: None,
                    must_tell_death: false,
                };
                rows.settle(&[&settlement], "me", at);
            }
            assert_eq!(rows.take_updates().len(), expected, "{results:?}");
            assert_eq!(rows.documents, results.len(), "{results:?}");
        }
    }
}
