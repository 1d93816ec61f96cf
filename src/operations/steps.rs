//! Replay and cancellation: in steps of at most 100 documents of one endpoint.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc, rawdoc};
use tracing::warn;

use super::document::{Kind, id_text};
use super::pace::MOST_PER_STEP;
use super::running::{Ended, Running, Unfinished};
use crate::failpoint;
use crate::outbox::Search;
use crate::store::{self, Result, Transaction, Writer};

/// The documents that MongoDB refuses to change.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) documents: i64,
    pub(super) first: Option<String>,
    /// Their `_id`s: an operation may find one again.
    pub(super) ids: HashSet<String>,
}

impl Refused {
    pub(super) fn add(&mut self, document: &str, error: &str) {
        if self.ids.insert(document.to_owned()) {
            self.documents += 1;
            self.first.get_or_insert_with(|| format!("{document}: {error}"));
        }
    }

    pub(super) fn tell(&self, result: &mut Document) {
        if self.documents > 0 {
            result.extend(doc! { "refusedDocuments": self.documents, "firstRefused": self.first.clone() });
        }
    }
}

/// What came of a step.
enum Step {
    /// This many deliveries were changed.
    Done(u64),
    /// MongoDB refuses to change one of the documents, with this error.
    Refused(String),
}

impl Running {
    pub(super) async fn replay_or_cancel(&mut self) -> Result<Ended, Unfinished> {
        let counted = self.count().await?;
        if self.request.is_dry_run && !self.cancel.is_cancelled() {
            let mut result = doc! { "deliveries": counted.get_i64("of").unwrap_or(0) };
            result.extend(left_out(&counted));
            return Ok(Ended::Done(result));
        }
        let mut refused = Refused::default();
        let mut search = self.search();
        while !self.cancel.is_cancelled() {
            let page = match search.page(MOST_PER_STEP).await {
                Ok(page) => page,
                Err(error) => {
                    self.persist(|| async { self.search().page(1).await }).await?;
                    tracing::debug!(%error, "an operation looks again from the beginning");
                    search = self.search();
                    continue;
                }
            };
            if page.is_empty() {
                break;
            }
            for ids in by_endpoint(&page, self.step_size()) {
                self.step(ids, &mut refused).await?;
            }
        }
        // What is in memory of what was cancelled must not go out.
        if self.request.kind == Kind::Cancel {
            self.raise_control(Vec::new()).await?;
        }
        self.result(refused).await
    }

    fn search(&self) -> Search {
        Search::of_moving(&self.request.selection, &self.executor.parts.store, self.started_at)
    }

    /// How many deliveries it is about, and how many it leaves out; written down, once.
    async fn count(&mut self) -> Result<Document, Unfinished> {
        if self.of.is_some() || self.cancel.is_cancelled() {
            return self.progress().await;
        }
        let counted = self.persist(|| self.count_once()).await?;
        let set: Document = counted
            .iter()
            .map(|(name, count)| (format!("progress.{name}"), count.clone()))
            .collect();
        let update = doc! { "$set": set };
        self.persist(|| self.update(self.own(), update.clone())).await?;
        self.of = counted.get_i64("of").ok();
        Ok(counted)
    }

    async fn count_once(&self) -> Result<Document> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (selection, store) = (&self.request.selection, &self.executor.parts.store);
        if self.request.kind == Kind::Cancel {
            let of = selection.count_cancellable(store, self.started_at).await?;
            return Ok(doc! { "of": number(of) });
        }
        let preview = selection.preview(store, self.started_at, 0).await?;
        let mut counted = doc! { "of": number(preview.deliveries) };
        for (name, count) in LEFT_OUT.into_iter().zip([preview.erased, preview.without_payload]) {
            if count > 0 {
                counted.insert(name, number(count));
            }
        }
        Ok(counted)
    }

    /// One step, by halves where MongoDB refuses one of the documents. The next begins after a rest.
    pub(super) async fn step(&self, ids: Vec<String>, refused: &mut Refused) -> Result<(), Unfinished> {
        let mut left = vec![ids];
        while let Some(ids) = left.pop() {
            if self.cancel.is_cancelled() {
                break;
            }
            let began = Instant::now();
            let done = self.persist(|| self.step_or_refusal(&ids)).await?;
            self.ensure_owned()?;
            match done {
                Step::Done(deliveries) => self.rest(self.pause(deliveries, began.elapsed())).await?,
                Step::Refused(_) if ids.len() > 1 => {
                    let mut ids = ids;
                    let half = ids.split_off(ids.len() / 2);
                    left.extend([half, ids]);
                }
                Step::Refused(error) => {
                    let (operation, document) = (id_text(&self.id), &ids[0]);
                    warn!(
                        operation,
                        document,
                        error,
                        "MongoDB refuses to change this document of the outbox: the operation leaves it out"
                    );
                    refused.add(document, &error);
                }
            }
        }
        Ok(())
    }

    /// Statistics that MongoDB refuses are left out.
    async fn step_or_refusal(&self, ids: &[String]) -> Result<Step> {
        let _turn = self.turn().await;
        let is_counted = self.is_counted.load(Ordering::Relaxed);
        let mut done = self.try_step(ids, is_counted).await;
        if self.is_refused.load(Ordering::Relaxed) {
            return done.map(Step::Done);
        }
        if let Err(error) = &done
            && is_counted
            && matches!(error.kind(), store::Kind::Refused | store::Kind::Denied)
        {
            let uncounted = self.try_step(ids, false).await;
            if uncounted.is_ok() {
                self.is_counted.store(false, Ordering::Relaxed);
                warn!(operation = id_text(&self.id), %error, "MongoDB refuses the statistics: what this operation cancels is not counted in webhook_stats");
            }
            done = uncounted;
        }
        match done {
            Ok(deliveries) => Ok(Step::Done(deliveries)),
            Err(error) if matches!(error.kind(), store::Kind::Refused | store::Kind::TooLarge) => {
                Ok(Step::Refused(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    async fn try_step(&self, ids: &[String], is_counted: bool) -> Result<u64> {
        let parts = &self.executor.parts;
        let now = parts.clock.now();
        let mut transaction = parts.store.begin(Writer::Operations).await?;
        let (selection, outbox) = (&self.request.selection, &parts.outbox);
        let deliveries = match self.request.kind {
            Kind::Erase => return self.erase_step(transaction, ids, now, is_counted).await,
            Kind::Cancel => {
                let reason = self.request.cancel_reason();
                let cancel = outbox.cancel_in_transaction(&mut transaction, ids, selection, &reason, now, is_counted);
                cancel.await?
            }
            _ => {
                let replay = outbox.replay_in_transaction(&mut transaction, ids, selection, self.started_at, now);
                replay.await?
            }
        };
        let done = i64::try_from(deliveries).unwrap_or(i64::MAX);
        self.commit_step(transaction, rawdoc! { "progress.done": done }).await?;
        Ok(deliveries)
    }

    async fn erase_step(
        &self,
        mut transaction: Transaction,
        ids: &[String],
        now: DateTime,
        is_counted: bool,
    ) -> Result<u64> {
        let Some(subject) = &self.request.subject else {
            return Ok(0);
        };
        let outbox = &self.executor.parts.outbox;
        let erase = outbox.erase_in_transaction(&mut transaction, ids, subject, now, is_counted);
        let erased = erase.await?;
        let done = rawdoc! {
            "progress.done": erased.deliveries, "progress.cancelled": erased.cancelled,
            "progress.documents": erased.documents, "progress.found": erased.documents,
        };
        self.commit_step(transaction, done).await?;
        Ok(erased.deliveries.unsigned_abs())
    }

    /// Commits a step with how far the operation has come by it.
    async fn commit_step(&self, mut transaction: Transaction, done: RawDocumentBuf) -> Result<()> {
        self.note_in_transaction(&mut transaction, rawdoc! { "$inc": done })
            .await?;
        failpoint::reach("step-to-be-committed");
        transaction.commit().await?;
        failpoint::reach("step-committed");
        (self.executor.parts.have_all_look)();
        Ok(())
    }

    /// What the operation's document says of its progress.
    pub(super) async fn progress(&self) -> Result<Document, Unfinished> {
        let parts = &self.executor.parts;
        let read = || async { Ok(parts.store.operations().find_one(doc! { "_id": &self.id }).await?) };
        let document = self.persist(read).await?.unwrap_or_default();
        Ok(document.get_document("progress").cloned().unwrap_or_default())
    }

    async fn result(&self, refused: Refused) -> Result<Ended, Unfinished> {
        let progress = self.progress().await?;
        let mut result = doc! { "deliveries": progress.get_i64("done").unwrap_or(0) };
        result.extend(left_out(&progress));
        refused.tell(&mut result);
        Ok(match self.cancel.is_cancelled() {
            true => Ended::Cancelled(result),
            false => Ended::Done(result),
        })
    }
}

/// What a replay leaves out, in its progress and in its result.
const LEFT_OUT: [&str; 2] = ["erased", "withoutPayload"];

fn left_out(progress: &Document) -> impl Iterator<Item = (String, Bson)> {
    let count = |name: &str| Some((name.to_owned(), progress.get(name)?.clone()));
    LEFT_OUT.into_iter().filter_map(count)
}

/// The ids of the documents of a page in steps of at most `size` documents of one endpoint, in the order of the page.
pub(super) fn by_endpoint(page: &[RawDocumentBuf], size: usize) -> Vec<Vec<String>> {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for document in page {
        let Ok(id) = document.get_str("_id") else { continue };
        let endpoint = document.get_str("endpoint").unwrap_or_default();
        match groups
            .last_mut()
            .filter(|(last, ids)| *last == endpoint && ids.len() < size)
        {
            Some((_, ids)) => ids.push(id.to_owned()),
            None => groups.push((endpoint, vec![id.to_owned()])),
        }
    }
    groups.into_iter().map(|(_, ids)| ids).collect()
}
