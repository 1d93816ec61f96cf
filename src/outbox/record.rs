//! Writing what became of deliveries, by the hundreds. A result counts only where its claim still stands.

use std::collections::HashMap;

use bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, cstr, doc, rawdoc};
use futures_util::TryStreamExt;

use super::document::{id_list, id_of};
use super::group::{self, Group};
use super::{Claimed, Next, Outbox};
use crate::model::Failure;
use crate::store::{DELIVERIES, Result, Stopped, update_row};

/// A delivery and what becomes of it.
#[derive(Debug)]
pub struct Verdict {
    /// The delivery, with its claim.
    pub delivery: Claimed,
    /// What is to be written.
    pub next: Next,
}

impl Outbox {
    /// Writes the verdicts. Where the claim was lost meanwhile, nothing changes. Safe to repeat. Returns what was written, for
    /// the statistics, until they have counted it: see [`Outbox::forget`]. `None`: nothing that counts.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write: their claims are then freed by another.
    pub async fn record(&self, verdicts: &[Verdict], now: DateTime) -> std::result::Result<Option<Group>, Stopped> {
        if verdicts.is_empty() {
            return Ok(None);
        }
        let mut group = Group::of(&self.owner, self.draw_group(), verdicts, now);
        let note = (!group.entries.is_empty()).then(|| group.row());
        let expected = verdicts.len() + usize::from(note.is_some());
        let rows: Vec<_> = note.into_iter().chain(self.rows(verdicts, &group)).collect();
        let write = || async {
            let reply = self.store.update_in_order(DELIVERIES, &rows).await?;
            if reply.matched == expected {
                return Ok(None);
            }
            self.written(&group).await.map(Some)
        };
        if let Some(written) = self.store.persist("record results", write).await? {
            group.entries.retain(|entry| written.contains_key(&entry.id));
        }
        Ok((expected > verdicts.len()).then_some(group))
    }

    /// What owners recorded that are not in `live`, and nobody has counted, as far as it was written, by owner and number.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn uncounted(&self, live: &[String]) -> Result<Vec<Group>> {
        let notes = self.store.database().collection::<Document>(DELIVERIES);
        let left = notes
            .find(group::left_behind(live))
            .sort(doc! { "by": 1, "n": 1 })
            .await?;
        let left: Vec<_> = left.try_collect().await?;
        let mut groups: Vec<_> = left.iter().filter_map(Group::read).collect();
        for group in &mut groups {
            let written = self.written(group).await?;
            group.entries.retain_mut(|entry| {
                entry.reason = written.get(&entry.id).cloned().flatten();
                written.contains_key(&entry.id)
            });
        }
        Ok(groups)
    }

    /// Takes out the notes of groups that are counted.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn forget(&self, counted: &[Group]) -> Result<()> {
        let notes = doc! { "_id": { "$in": id_list(counted.iter().map(Group::id)) } };
        self.store.deliveries().delete_many(notes).await.map(drop)
    }

    /// The deliveries whose results were written, each with its last error.
    async fn written(&self, group: &Group) -> Result<HashMap<String, Option<String>>> {
        let deliveries = self.store.deliveries();
        let find = deliveries.find(group.written()).projection(doc! { "lastError": 1 });
        let found: Vec<_> = find.await?.try_collect().await?;
        let error = |delivery: &RawDocumentBuf| delivery.get_str("lastError").ok().map(str::to_owned);
        Ok(found
            .iter()
            .filter_map(|delivery| Some((id_of(delivery)?, error(delivery))))
            .collect())
    }

    /// Deliveries that went well differ in nothing but their ids and share a row; the others have one each.
    fn rows(&self, verdicts: &[Verdict], group: &Group) -> Vec<RawDocumentBuf> {
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
                rows.push(update_row(filter, update(next, group), false));
            }
        }
        rows.extend(delivered.into_iter().map(|((claim, status), ids)| {
            let filter = self.fenced(rawdoc! { "_id": { "$in": ids } }, claim);
            update_row(filter, update(&Next::Delivered { status }, group), true)
        }));
        rows
    }

    fn fenced(&self, mut filter: RawDocumentBuf, claim: i64) -> RawDocumentBuf {
        filter.append(cstr!("claim.by"), &*self.owner);
        filter.append(cstr!("claim.n"), claim);
        filter
    }
}

fn update(next: &Next, group: &Group) -> RawDocumentBuf {
    let now = group.at;
    let done = rawdoc! { "claim": 1 };
    let stamped = |mut set: RawDocumentBuf| {
        set.append(group::stamp(&group.owner), group.number);
        set
    };
    match next {
        Next::Delivered { status } => {
            let status = i32::from(*status);
            let set = rawdoc! { "state": "delivered", "finishedAt": now, "lastAttemptAt": now, "lastStatus": status };
            let done = rawdoc! { "claim": 1, "deadSince": 1, "redrivable": 1 };
            rawdoc! { "$set": stamped(set), "$unset": done }
        }
        Next::Retry {
            due,
            first_attempt_at,
            failure,
        } => {
            let mut set = failed("pending", failure, now);
            set.append(cstr!("due"), *due);
            set.append(cstr!("firstAttemptAt"), *first_attempt_at);
            rawdoc! { "$set": stamped(set), "$unset": done }
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
            rawdoc! { "$set": stamped(set), "$min": { "deadSince": now }, "$unset": done }
        }
        Next::Cancelled { reason } => {
            let set = rawdoc! { "state": "cancelled", "reason": reason.as_str(), "finishedAt": now };
            rawdoc! { "$set": stamped(set), "$inc": { "attempts": -1 }, "$unset": done }
        }
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
