//! One operation that is carried out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Bson, DateTime, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::options::FindOptions;
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::document::{Kind, Request, id_text};
use super::executor::Executor;
use super::holds::{Hold, Target, episodes_of, raise_row, release_row, released_by};
use super::sample;
use crate::failpoint;
use crate::notices::PAST_SUSPENSIONS;
use crate::store::{
    self, Backoff, CONTROL, Error, OPERATIONS, Result, STATE, Transaction, Writer, extended, increased, update_row,
};

/// Why an operation does not come to its end.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// The daemon stops, or another instance carries the operation out: its document stays as it is.
    Abandoned,
    /// MongoDB refuses something that it needs, with this error: it ends as `failed`.
    Failed(String),
}

/// It has ended; or MongoDB refuses to write that down, and why.
pub(super) struct Finished {
    pub(super) refused: Option<String>,
}

/// How it ended.
pub(super) enum Ended {
    Done(Document),
    Cancelled(Document),
    Failed(String),
    /// What was done, and why that is not all.
    Incomplete(Document, String),
}

/// An operation, as this instance carries it out.
pub(super) struct Running {
    pub(super) executor: Executor,
    pub(super) id: Bson,
    pub(super) request: Request,
    /// When it was first begun: what ends later is not meant.
    pub(super) started_at: DateTime,
    /// The control number that it has raised already.
    pub(super) control: Option<i64>,
    /// How many deliveries it is about, if they were counted already.
    pub(super) of: Option<i64>,
    pub(super) cancel: CancellationToken,
    term: CancellationToken,
    /// Whether what it cancels is counted in the statistics.
    pub(super) is_counted: AtomicBool,
    /// MongoDB refuses to write down how far it has come.
    pub(super) is_refused: AtomicBool,
}

impl Running {
    pub(super) fn new(
        executor: Executor,
        id: Bson,
        request: Request,
        document: &Document,
        cancel: CancellationToken,
        term: CancellationToken,
    ) -> Self {
        let started_at = document.get_datetime("startedAt").copied();
        let progress = document.get_document("progress").ok();
        Self {
            started_at: started_at.unwrap_or_else(|_| executor.parts.clock.now()),
            control: document.get_i64("control").ok(),
            of: progress.and_then(|progress| progress.get_i64("of").ok()),
            executor,
            id,
            request,
            cancel,
            term,
            is_counted: AtomicBool::new(true),
            is_refused: AtomicBool::new(false),
        }
    }

    pub(super) async fn run(mut self, document: Document) -> Result<Finished, Unfinished> {
        let is_stopped = self.cancel.is_cancelled() && self.control.is_none();
        let ended = match self.request.kind {
            _ if is_stopped && self.request.is_quick() => Ok(Ended::Cancelled(Document::new())),
            Kind::Hold | Kind::Release => self.hold_or_release().await,
            Kind::Replay | Kind::Cancel => self.replay_or_cancel().await,
            Kind::Test => Ok(self.test().await),
            Kind::Backfill => self.backfill(&document).await,
            Kind::Erase => self.erase().await,
        };
        match ended {
            Ok(ended) => self.finish(ended).await,
            Err(Unfinished::Failed(error)) => self.finish(Ended::Failed(error)).await,
            Err(Unfinished::Abandoned) => Err(Unfinished::Abandoned),
        }
    }

    async fn hold_or_release(&mut self) -> Result<Ended, Unfinished> {
        let Some(target) = self.request.target.clone() else {
            return Ok(Ended::Failed("nothing is meant".into()));
        };
        let rows = match self.request.kind {
            Kind::Hold => {
                let hold = Hold {
                    target: target.clone(),
                    by: self.request.by.clone(),
                    reason: self.request.reason.clone(),
                    at: Some(self.started_at),
                    until: self.request.until,
                    past: Vec::new(),
                };
                let row = hold.row(self.started_at);
                vec![row.map_err(|error| Unfinished::Failed(error.to_string()))?]
            }
            _ => release_rows(&target, self.started_at)?,
        };
        let instances = self.raise_control(rows).await?;
        let instances = i64::try_from(instances).unwrap_or(i64::MAX);
        Ok(Ended::Done(
            doc! { "target": target.to_string(), "instances": instances },
        ))
    }

    /// Writes these rows of `webhook_state` and raises the control number in one transaction, then waits until every living instance
    /// has acted on it. Returns how many live.
    pub(super) async fn raise_control(&mut self, rows: Vec<RawDocumentBuf>) -> Result<usize, Unfinished> {
        let number = match self.control {
            Some(number) => number,
            None => self.persist(|| self.try_raise(rows.clone())).await?,
        };
        self.control = Some(number);
        failpoint::reach("control-raised");
        (self.executor.parts.act_on)(number);
        self.wait_for_instances(number).await
    }

    async fn try_raise(&self, mut rows: Vec<RawDocumentBuf>) -> Result<i64> {
        let store = &self.executor.parts.store;
        let mut transaction = store.begin(Writer::Operations).await?;
        rows.push(raise_row());
        transaction.update(STATE, rows.iter()).await?;
        let control = transaction
            .find(STATE, doc! { "_id": CONTROL }, FindOptions::default())
            .await?;
        let number = control
            .first()
            .and_then(|control| control.get_i64("number").ok())
            .unwrap_or(0);
        self.note_in_transaction(&mut transaction, rawdoc! { "$set": { "control": number } })
            .await?;
        failpoint::reach("control-to-be-raised");
        transaction.commit().await?;
        Ok(number)
    }

    /// Writes down how far it has come, if this instance still carries it out.
    ///
    /// # Errors
    /// Another does; or the transaction is spoiled.
    pub(super) async fn note_in_transaction(
        &self,
        transaction: &mut Transaction,
        update: RawDocumentBuf,
    ) -> Result<()> {
        let id = bson::RawBson::try_from(self.id.clone()).map_err(mongodb::error::Error::custom)?;
        let filter = rawdoc! { "_id": id, "state": "running", "instance": self.executor.instance_id() };
        let row = update_row(filter, update, false);
        let noted = transaction.update(OPERATIONS, [row].iter()).await;
        let reply = noted.map_err(|error| match error.kind() {
            store::Kind::Refused | store::Kind::TooLarge => {
                self.is_refused.store(true, Ordering::Relaxed);
                Error::refused(format!("how far it has come, in {OPERATIONS}: {error}"))
            }
            _ => error,
        })?;
        match reply.matched {
            0 => {
                // `persist` sees that, and abandons the operation whatever the error is.
                self.term.cancel();
                Err(Error::refused("another instance carries the operation out"))
            }
            _ => Ok(()),
        }
    }

    /// Tries until it works.
    ///
    /// # Errors
    /// [`Unfinished::Failed`] if MongoDB refuses it.
    pub(super) async fn persist<T, F>(&self, operation: impl Fn() -> F) -> Result<T, Unfinished>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = Backoff::default();
        loop {
            self.ensure_owned()?;
            let error = match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            self.ensure_owned()?;
            if error.kind().is_refusal() {
                return Err(Unfinished::Failed(error.to_string()));
            }
            if self.term.run_until_cancelled(backoff.wait()).await.is_none() {
                return Err(Unfinished::Abandoned);
            }
        }
    }

    /// Permission for one try of a step, given back before it is tried again: what it meets may be locked for long.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Fails only if the semaphore was closed, and nobody closes it.
        self.executor.turns.acquire().await.ok()
    }

    /// Changes the operation's document, if `filter` still matches it.
    pub(super) async fn update(&self, filter: Document, update: Document) -> Result<()> {
        let store = &self.executor.parts.store;
        store
            .update_at_once(Writer::Executor, OPERATIONS, filter, update, false)
            .await?;
        Ok(())
    }

    /// The filter for the operation's document while this instance carries it out.
    pub(super) fn own(&self) -> Document {
        doc! { "_id": &self.id, "state": "running", "instance": self.executor.instance_id() }
    }

    /// An error once this instance no longer carries it out.
    pub(super) fn ensure_owned(&self) -> Result<(), Unfinished> {
        if self.term.is_cancelled() {
            Err(Unfinished::Abandoned)
        } else {
            Ok(())
        }
    }

    /// Waits that long, whoever cancels the operation.
    pub(super) async fn wait(&self, time: Duration) -> Result<(), Unfinished> {
        let waited = self.term.run_until_cancelled(tokio::time::sleep(time)).await;
        waited.ok_or(Unfinished::Abandoned)
    }

    /// Rests that long, or until the operation is cancelled.
    pub(super) async fn rest(&self, time: Duration) -> Result<(), Unfinished> {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.cancel.cancelled() => {}
            () = self.term.cancelled() => {}
        }
        self.ensure_owned()
    }

    async fn test(&self) -> Ended {
        let parts = &self.executor.parts;
        let sent = sample::send(parts, &self.request.selection).await;
        sent.map_or_else(Ended::Failed, Ended::Done)
    }

    async fn finish(&self, ended: Ended) -> Result<Finished, Unfinished> {
        let is_failed = matches!(ended, Ended::Failed(_));
        failpoint::reach("operation-to-be-finished");
        let written = match self.write_end(ended).await {
            Err(Unfinished::Failed(error)) if !is_failed => {
                let failed = format!("it was carried out, but MongoDB refuses its result: {error}");
                self.write_end(Ended::Failed(failed)).await
            }
            written => written,
        };
        match written {
            Ok(()) => Ok(Finished { refused: None }),
            Err(Unfinished::Failed(error)) => Ok(Finished { refused: Some(error) }),
            Err(Unfinished::Abandoned) => Err(Unfinished::Abandoned),
        }
    }

    /// Writes it down, and says it.
    async fn write_end(&self, ended: Ended) -> Result<(), Unfinished> {
        let (state, result, error) = match ended {
            Ended::Done(result) => ("done", Some(result), None),
            Ended::Cancelled(result) => ("cancelled", Some(result), None),
            Ended::Failed(error) => ("failed", None, Some(error)),
            Ended::Incomplete(result, error) => ("failed", Some(result), Some(error)),
        };
        let mut set = doc! { "state": state, "finishedAt": self.executor.parts.clock.now() };
        set.extend(result.map(|result| ("result".to_owned(), result.into())));
        set.extend(error.clone().map(|error| ("error".to_owned(), error.into())));
        let update = doc! { "$set": set };
        self.persist(|| self.update(self.own(), update.clone())).await?;
        let (id, kind) = (id_text(&self.id), self.request.kind.as_str());
        match &error {
            Some(error) => tracing::error!(operation = id, kind, error, "an operation has failed"),
            None => info!(operation = id, kind, state, "an operation has ended"),
        }
        Ok(())
    }
}

/// Ends holds, and suspensions: the endpoints are judged anew, as `restarted` in `notices/episode.rs` does with an episode in memory.
fn release_rows(target: &Target, now: DateTime) -> Result<Vec<RawDocumentBuf>, Unfinished> {
    let raw = |filter: Document| {
        let raw = RawDocumentBuf::try_from(&filter);
        raw.map_err(|error| Unfinished::Failed(error.to_string()))
    };
    let holds = update_row(
        raw(released_by(target, now))?,
        rawdoc! { "$set": { "until": now } },
        true,
    );
    let mut suspended = episodes_of(target);
    suspended.insert("episode.suspended", doc! { "$exists": true });
    let ended = rawdoc! { "at": "$episode.suspended.since", "until": now };
    let set = rawdoc! {
        "suspensions": extended("suspensions", ended, PAST_SUSPENSIONS),
        "episode.version": increased("episode.version", 1, 1_i64),
        "episode.inARow": 0_i64, "episode.inARowSince": now, "episode.delivered": 0_i64,
    };
    let mut restart = RawArrayBuf::new();
    restart.push(rawdoc! { "$set": set });
    // It has failed since it was well, if it was.
    restart.push(rawdoc! { "$unset": ["episode.suspended", "episode.wellSince"] });
    Ok(vec![
        holds,
        update_row(raw(suspended)?, restart, true),
        release_row(target, now),
    ])
}
