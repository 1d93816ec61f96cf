//! A unit of work: writes that happen all together or not at all.

use std::sync::Arc;
use std::time::Instant;

use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::error::{Error, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{FindOptions, ReadConcern};
use mongodb::{ClientSession, Collection};
use tokio::sync::OwnedMutexGuard;

use super::command::{self, WriteReply};
use super::{Backoff, Result, Store, command_code};

/// MongoDB's `IllegalOperation`: what a standalone mongod answers to the first command of a transaction.
const ILLEGAL_OPERATION: i32 = 20;

/// A transaction, or single writes one after the other where the server has no transactions.
pub(crate) struct Unit {
    store: Store,
    session: Option<OwnedMutexGuard<ClientSession>>,
}

impl Store {
    /// Begins one; `atomic` for a transaction: it sees one snapshot, and fails if anybody changes what it changes. All of a
    /// daemon's transactions, one at a time, are of one session, so that a new one ends what is left of the last on the server.
    ///
    /// # Errors
    /// MongoDB is away.
    pub(crate) async fn begin(&self, atomic: bool) -> Result<Unit> {
        let session = if atomic {
            let mut session = Arc::clone(&self.session).lock_owned().await;
            let _ = session.abort_transaction().await;
            let begin = session.start_transaction().read_concern(ReadConcern::snapshot());
            begin.write_concern(super::durable()).await?;
            Some(session)
        } else {
            None
        };
        Ok(Unit {
            store: self.clone(),
            session,
        })
    }
}

impl Store {
    /// The session of this daemon's transactions.
    pub(crate) fn session_id(&self) -> &Document {
        &self.session_id
    }

    /// Ends another daemon's session: of a transaction that was under way when it died, nothing happened, and what it has changed
    /// is free again. MongoDB itself would wait for a minute (`transactionLifetimeLimitSeconds`).
    ///
    /// # Errors
    /// MongoDB is away.
    pub(crate) async fn end_session(&self, id: &Document) -> Result<()> {
        self.database.run_command(doc! { "killSessions": [id] }).await.map(drop)
    }
}

impl Unit {
    /// What matches, until it has so many bytes.
    ///
    /// # Errors
    /// MongoDB is away.
    pub(crate) async fn find(
        &mut self,
        collection: &Collection<RawDocumentBuf>,
        filter: Document,
        options: FindOptions,
        bytes: usize,
    ) -> Result<Vec<RawDocumentBuf>> {
        let find = collection.find(filter).with_options(options);
        let (mut found, mut size) = (Vec::new(), 0);
        let mut keep = |document: RawDocumentBuf| {
            size += document.as_bytes().len();
            found.push(document);
            size < bytes
        };
        match &mut self.session {
            Some(session) => {
                let session = &mut **session;
                let mut cursor = find.session(&mut *session).await?;
                while let Some(document) = cursor.next(session).await {
                    if !keep(document?) {
                        break;
                    }
                }
            }
            None => {
                let mut cursor = find.await?;
                while let Some(document) = cursor.try_next().await? {
                    if !keep(document) {
                        break;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Inserts all, unordered. In a transaction a row that is refused spoils it.
    ///
    /// # Errors
    /// MongoDB did not do it, or did not confirm it.
    pub(crate) async fn insert<'a>(
        &mut self,
        collection: &str,
        rows: impl Iterator<Item = &'a RawDocumentBuf>,
    ) -> Result<WriteReply> {
        self.write(command::insert(collection, rows)).await
    }

    /// Runs the update rows, unordered. In a transaction a row that is refused spoils it.
    ///
    /// # Errors
    /// MongoDB did not do it, or did not confirm it.
    pub(crate) async fn update<'a>(
        &mut self,
        collection: &str,
        rows: impl Iterator<Item = &'a RawDocumentBuf>,
    ) -> Result<WriteReply> {
        self.write(command::update(collection, rows)).await
    }

    async fn write(&mut self, command: RawDocumentBuf) -> Result<WriteReply> {
        let Some(session) = &mut self.session else {
            return self.store.write(command).await;
        };
        let reply = self
            .store
            .database
            .run_raw_command(command)
            .session(&mut **session)
            .await?;
        command::parse(&reply)
    }

    /// Makes it last. Whether a transaction was committed is asked until it is known: it may have been although no answer came.
    ///
    /// # Errors
    /// Nothing of it happened; or the daemon stops, and it is not known.
    pub(crate) async fn commit(mut self) -> Result<()> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let (mut backoff, mut tries) = (Backoff::default(), self.store.outage.tries());
        loop {
            let began = Instant::now();
            let error = match session.commit_transaction().await {
                Ok(()) => {
                    tries.succeeded();
                    return Ok(());
                }
                Err(error) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => error,
                Err(error) => return Err(error),
            };
            tries.failed("commit a transaction", &error, began);
            tokio::select! {
                () = self.store.stop.cancelled() => return Err(error),
                () = backoff.wait() => {}
            }
        }
    }

    /// Gives it up: what a transaction has changed is free again.
    pub(crate) async fn abort(mut self) {
        if let Some(session) = &mut self.session {
            // If it fails: see `Store::begin` and `Store::end_session`.
            let _ = session.abort_transaction().await;
        }
    }

    /// Whether its writes happen together.
    pub(crate) fn is_atomic(&self) -> bool {
        self.session.is_some()
    }
}

/// Whether the server has no transactions: it is a standalone mongod.
pub(crate) fn has_no_transactions(error: &Error) -> bool {
    command_code(error) == Some(ILLEGAL_OPERATION)
}
