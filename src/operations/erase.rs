//! Erasing what the outbox holds of a user or a certificate.
//!
//! A certificate's events are found by an index. A user's are not: all documents are walked through in the order of their `_id`s,
//! and again, until a walk finds nothing, because documents may have been appended where the walk had been. At the end each instance
//! drops what it has in memory.

use std::time::Instant;

use bson::{Bson, Document, RawDocumentBuf, doc};

use super::running::{Ended, Running, Unfinished};
use super::steps::{Refused, by_endpoint};
use crate::failpoint;
use crate::outbox::{Erased, Subject, would_erase};

/// A user of whom each walk finds something new is not waited for longer.
const MOST_WALKS: i64 = 10;

impl Running {
    pub(super) async fn erase(&mut self) -> Result<Ended, Unfinished> {
        let Some(subject) = self.request.subject.clone() else {
            return Ok(Ended::Failed("nobody is meant".into()));
        };
        if self.request.is_dry_run {
            return self.count_traces(&subject).await;
        }
        let mut refused = Refused::default();
        // Raised already: another instance had erased all of it.
        if self.control.is_none() {
            match &subject {
                Subject::User(_) => self.walk_until_clean(&subject, &mut refused).await?,
                Subject::Certificate(_) => self.erase_certificate(&subject, &mut refused).await?,
            }
        }
        // What is in memory of it must not go out.
        self.raise_control(Vec::new()).await?;
        self.erased(refused, matches!(subject, Subject::User(_))).await
    }

    async fn erase_certificate(&self, subject: &Subject, refused: &mut Refused) -> Result<(), Unfinished> {
        let outbox = &self.executor.parts.outbox;
        while !self.cancel.is_cancelled() {
            let except: Vec<String> = refused.ids.iter().cloned().collect();
            let found = self.persist(|| outbox.traces_of(subject, &except, true)).await?;
            if found.is_empty() {
                break;
            }
            self.erase_found(&found, refused).await?;
        }
        Ok(())
    }

    async fn walk_until_clean(&self, subject: &Subject, refused: &mut Refused) -> Result<(), Unfinished> {
        loop {
            self.walk(subject, refused).await?;
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            let progress = self.progress().await?;
            let walks = number(&progress, "walks") + 1;
            let is_clean = number(&progress, "found") == 0;
            let is_last = is_clean || walks >= MOST_WALKS;
            let mut set = doc! { "progress.walks": walks };
            if !is_last {
                // What the last one found is told.
                set.insert("progress.found", 0_i64);
            }
            self.set(doc! { "$set": set, "$unset": { "progress.place": 1 } })
                .await?;
            failpoint::reach("walk-ended");
            if is_last {
                return Ok(());
            }
        }
    }

    /// Walks through the outbox once, from where it is, and erases what it finds.
    async fn walk(&self, subject: &Subject, refused: &mut Refused) -> Result<(), Unfinished> {
        let outbox = &self.executor.parts.outbox;
        let mut place: Option<Bson> = self.progress().await?.get("place").cloned();
        while !self.cancel.is_cancelled() {
            let began = Instant::now();
            let traces = self.persist(|| outbox.traces_after(subject, place.as_ref())).await?;
            let took = began.elapsed();
            self.erase_found(&traces.found, refused).await?;
            if traces.is_end || self.cancel.is_cancelled() {
                break;
            }
            place = traces.last;
            self.set(doc! { "$set": { "progress.place": place.clone() } }).await?;
            failpoint::reach("place-noted");
            self.rest(took).await?;
        }
        Ok(())
    }

    async fn erase_found(&self, found: &[RawDocumentBuf], refused: &mut Refused) -> Result<(), Unfinished> {
        for odd in found.iter().filter(|document| document.get_str("_id").is_err()) {
            let id = odd.get("_id").ok().flatten();
            let id = id.map(|id| format!("{id:?}")).unwrap_or_default();
            refused.add(&id, "its `_id` is no text");
        }
        for mut ids in by_endpoint(found, self.step_size()) {
            ids.retain(|id| !refused.ids.contains(id));
            if !ids.is_empty() {
                self.step(ids, refused).await?;
            }
        }
        Ok(())
    }

    /// How much there is of the subject: by one walk, or by a look-up.
    async fn count_traces(&self, subject: &Subject) -> Result<Ended, Unfinished> {
        let outbox = &self.executor.parts.outbox;
        let (mut place, mut erased) = (None, Erased::default());
        if let Subject::Certificate(_) = subject {
            let found = self.persist(|| outbox.traces_of(subject, &[], false)).await?;
            found.iter().for_each(|document| erased += would_erase(document));
            return Ok(Ended::Done(result(erased)));
        }
        while !self.cancel.is_cancelled() {
            let began = Instant::now();
            let traces = self.persist(|| outbox.traces_after(subject, place.as_ref())).await?;
            traces.found.iter().for_each(|document| erased += would_erase(document));
            if traces.is_end {
                return Ok(Ended::Done(result(erased)));
            }
            place = traces.last;
            self.rest(began.elapsed()).await?;
        }
        Ok(Ended::Cancelled(result(erased)))
    }

    async fn erased(&self, refused: Refused, is_walk: bool) -> Result<Ended, Unfinished> {
        let progress = self.progress().await?;
        let mut result = result(Erased {
            deliveries: number(&progress, "done"),
            cancelled: number(&progress, "cancelled"),
            documents: number(&progress, "documents"),
        });
        let (walks, last) = (number(&progress, "walks"), number(&progress, "found"));
        if is_walk {
            result.insert("walks", walks);
        }
        refused.tell(&mut result);
        Ok(match (self.cancel.is_cancelled(), refused.first) {
            (true, _) => Ended::Cancelled(result),
            (false, Some(first)) => Ended::Incomplete(
                result,
                format!(
                    "payloads remain: MongoDB refuses to change {} documents of the outbox, the first {first}",
                    refused.documents
                ),
            ),
            (false, None) if is_walk && last > 0 => Ended::Incomplete(
                result,
                format!(
                    "more may remain: the last of {walks} walks still found {last} documents, because new events of this user are \
                     written; ask again when the platform has no more certificates of theirs"
                ),
            ),
            (false, None) => Ended::Done(result),
        })
    }

    async fn set(&self, update: Document) -> Result<(), Unfinished> {
        self.persist(|| self.update(self.own(), update.clone())).await
    }
}

fn result(erased: Erased) -> Document {
    doc! { "deliveries": erased.deliveries, "cancelled": erased.cancelled, "documents": erased.documents }
}

fn number(progress: &Document, field: &str) -> i64 {
    progress.get_i64(field).unwrap_or(0)
}
