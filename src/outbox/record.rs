//! Writing what became of deliveries, by the hundreds. A result counts only where its claim still stands.

use std::collections::HashMap;

use bson::{DateTime, RawArrayBuf, RawDocumentBuf, cstr, rawdoc};

use super::{Claimed, Next, Outbox};
use crate::model::Failure;
use crate::store::{DELIVERIES, Stopped, update_row};

/// A delivery and what becomes of it.
#[derive(Debug)]
pub struct Verdict {
    /// The delivery, with its claim.
    pub delivery: Claimed,
    /// What is to be written.
    pub next: Next,
}

impl Outbox {
    /// Writes the verdicts. Where the claim was lost meanwhile, nothing changes. Safe to repeat.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write: their claims are then freed by another.
    pub async fn record(&self, verdicts: &[Verdict], now: DateTime) -> Result<(), Stopped> {
        let rows = self.rows(verdicts, now);
        if rows.is_empty() {
            return Ok(());
        }
        self.store
            .persist("record results", || self.store.update_rows(DELIVERIES, rows.iter()))
            .await?;
        Ok(())
    }

    /// Deliveries that went well differ in nothing but their ids and share a row; the others have one each.
    fn rows(&self, verdicts: &[Verdict], now: DateTime) -> Vec<RawDocumentBuf> {
        let mut delivered: HashMap<(i64, u16), RawArrayBuf> = HashMap::new();
        let mut rows = Vec::new();
        for Verdict { delivery, next } in verdicts {
            if let Next::Delivered { status } = next {
                delivered
                    .entry((delivery.claim, *status))
                    .or_default()
                    .push(delivery.id());
            } else {
                let filter = self.fenced(rawdoc! { "_id": delivery.id() }, delivery.claim);
                rows.push(update_row(filter, update(next, now), false));
            }
        }
        rows.extend(delivered.into_iter().map(|((claim, status), ids)| {
            let filter = self.fenced(rawdoc! { "_id": { "$in": ids } }, claim);
            update_row(filter, update(&Next::Delivered { status }, now), true)
        }));
        rows
    }

    fn fenced(&self, mut filter: RawDocumentBuf, claim: i64) -> RawDocumentBuf {
        filter.append(cstr!("claim.by"), &*self.owner);
        filter.append(cstr!("claim.n"), claim);
        filter
    }
}

fn update(next: &Next, now: DateTime) -> RawDocumentBuf {
    let done = rawdoc! { "claim": 1 };
    match next {
        Next::Delivered { status } => rawdoc! {
            "$set": { "state": "delivered", "finishedAt": now, "lastAttemptAt": now, "lastStatus": i32::from(*status) },
            "$unset": { "claim": 1, "deadSince": 1, "redrivable": 1 },
        },
        Next::Retry {
            due,
            first_attempt_at,
            failure,
        } => {
            let mut set = failed("pending", failure, now);
            set.append(cstr!("due"), *due);
            set.append(cstr!("firstAttemptAt"), *first_attempt_at);
            rawdoc! { "$set": set, "$unset": done }
        }
        Next::Dead {
            verdict,
            failure,
            redrivable,
        } => {
            let mut set = failed("dead", failure, now);
            set.append(cstr!("reason"), verdict.as_str());
            set.append(cstr!("finishedAt"), now);
            set.append(cstr!("redrivable"), *redrivable);
            // The first death counts.
            rawdoc! { "$set": set, "$min": { "deadSince": now }, "$unset": done }
        }
        Next::Cancelled { reason } => rawdoc! {
            "$set": { "state": "cancelled", "reason": reason.as_str(), "finishedAt": now },
            "$inc": { "attempts": -1 },
            "$unset": done,
        },
        Next::Released => rawdoc! {
            "$set": { "state": "pending" },
            "$inc": { "attempts": -1 },
            "$unset": done,
        },
    }
}

fn failed(state: &str, failure: &Failure, now: DateTime) -> RawDocumentBuf {
    let mut set = rawdoc! { "state": state, "lastAttemptAt": now, "lastError": failure.reason.as_str() };
    if let Some(status) = failure.status {
        set.append(cstr!("lastStatus"), i32::from(status));
    }
    set
}
