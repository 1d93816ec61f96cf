//! Replay and cancellation: in steps of at most 100 documents of one endpoint.

use std::sync::atomic::Ordering;
use std::time::Instant;

use bson::{RawDocumentBuf, doc, rawdoc};
use tracing::warn;

use super::document::{Kind, id_text};
use super::pace::MOST_PER_STEP;
use super::running::{Ended, Running, Unfinished};
use crate::failpoint;
use crate::outbox::Search;
use crate::store::{self, Result, Writer};

/// The documents that MongoDB refuses to change.
#[derive(Default)]
struct Refused {
    documents: i64,
    first: Option<String>,
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
        let of = self.count().await?;
        if self.request.is_dry_run {
            return Ok(Ended::Done(doc! { "deliveries": of }));
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
        Search::new(&self.request.selection, &self.executor.parts.store, self.started_at)
    }

    /// How many deliveries it is about; written down, once.
    async fn count(&mut self) -> Result<i64, Unfinished> {
        if let Some(of) = self.of {
            return Ok(of);
        }
        let of = self.persist(|| self.count_once()).await?;
        let of = i64::try_from(of).unwrap_or(i64::MAX);
        let update = doc! { "$set": { "progress.of": of } };
        self.persist(|| self.update(self.own(), update.clone())).await?;
        self.of = Some(of);
        Ok(of)
    }

    async fn count_once(&self) -> Result<u64> {
        let (selection, store) = (&self.request.selection, &self.executor.parts.store);
        match self.request.kind {
            Kind::Cancel => selection.count_cancellable(store, self.started_at).await,
            _ => Ok(selection.preview(store, self.started_at, 0).await?.1),
        }
    }

    /// One step, by halves where MongoDB refuses one of the documents. The next begins after a rest.
    async fn step(&self, ids: Vec<String>, refused: &mut Refused) -> Result<(), Unfinished> {
        let mut left = vec![ids];
        while let Some(ids) = left.pop() {
            if self.cancel.is_cancelled() {
                break;
            }
            let began = Instant::now();
            let done = {
                let _turn = self.executor.turns.acquire().await.map_err(|_| Unfinished::Abandoned)?;
                self.persist(|| self.step_or_refusal(&ids)).await?
            };
            self.go_on()?;
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
                    refused.documents += 1;
                    refused.first.get_or_insert_with(|| format!("{document}: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Statistics that MongoDB refuses are left out.
    async fn step_or_refusal(&self, ids: &[String]) -> Result<Step> {
        let is_counted = self.is_counted.load(Ordering::Relaxed);
        let mut done = self.try_step(ids, is_counted).await;
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
        self.note_in_transaction(&mut transaction, rawdoc! { "$inc": { "progress.done": done } })
            .await?;
        failpoint::reach("step-to-be-committed");
        transaction.commit().await?;
        failpoint::reach("step-committed");
        Ok(deliveries)
    }

    async fn result(&self, refused: Refused) -> Result<Ended, Unfinished> {
        let parts = &self.executor.parts;
        let read = || async { Ok(parts.store.operations().find_one(doc! { "_id": &self.id }).await?) };
        let document = self.persist(read).await?.unwrap_or_default();
        let progress = document.get_document("progress").ok();
        let done = progress.and_then(|progress| progress.get_i64("done").ok()).unwrap_or(0);
        let mut result = doc! { "deliveries": done };
        if refused.documents > 0 {
            result.extend(doc! { "refusedDocuments": refused.documents, "firstRefused": refused.first });
        }
        Ok(match self.cancel.is_cancelled() {
            true => Ended::Cancelled(result),
            false => Ended::Done(result),
        })
    }
}

/// The ids of the documents of a page in steps of at most `size` documents of one endpoint, in the order of the page.
fn by_endpoint(page: &[RawDocumentBuf], size: usize) -> Vec<Vec<String>> {
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
