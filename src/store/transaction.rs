//! Transactions: writes that happen all together or not at all.

use std::time::Instant;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{FindOptions, ReadConcern};
use mongodb::{ClientSession, Collection, Database};
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;

use super::command::{self, Command, WriteReply};
use super::connection::WriterSession;
use super::{Backoff, Error, Kind, Result, Store, durable};

/// What writes in transactions. Each has a session of its own, so that they don't wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The watch, and what catches up with it. Both append to the outbox by [`lock_events`](crate::outbox::Outbox::lock_events).
    Source,
    /// The scan, page after page.
    Scan,
    /// The scan's other page, where two are under way.
    ScanSecond,
    /// The recorder.
    Recorder,
    /// Cancellations, redrive.
    Upkeep,
    /// The steps of operations.
    Operations,
    /// What begins and refuses operations: it waits for no step.
    Executor,
}

/// A transaction: it sees one snapshot, and fails if anybody changes what it changes. After an error it is spoiled: nothing of it can be
/// committed. What it has changed is free again after [`Transaction::abort`], or soon after it is dropped.
#[must_use = "what is not committed did not happen"]
pub struct Transaction {
    store: Store,
    kind: Writer,
    writer: OwnedMutexGuard<WriterSession>,
    is_open: bool,
}

impl Drop for Transaction {
    /// Whoever returns early, with an error, leaves nothing locked.
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.is_open {
            return;
        }
        let (store, kind) = (self.store.clone(), self.kind);
        // Once the session is free. Whoever has it first begins with the same.
        runtime.spawn(async move {
            if let Ok(mut writer) = store.connection.writer(kind).await {
                let _ = writer.session.abort_transaction().await;
            }
        });
    }
}

impl Store {
    /// Begins a transaction, once the writer's last one has ended. Ends what is left of that on the server.
    ///
    /// # Errors
    /// MongoDB is unavailable.
    pub async fn begin(&self, kind: Writer) -> Result<Transaction> {
        let mut writer = self.connection.writer(kind).await?;
        // Fails where nothing is left to abort.
        let _ = writer.session.abort_transaction().await;
        let begin = writer.session.start_transaction().read_concern(ReadConcern::snapshot());
        begin.write_concern(durable()).await?;
        Ok(Transaction {
            store: self.clone(),
            kind,
            writer,
            is_open: true,
        })
    }

    /// Changes one document, or all that match where `multi`, in a transaction of its own: where somebody keeps one locked this fails
    /// at once, and a write outside of a transaction would wait until that ends. Returns how many matched.
    ///
    /// # Errors
    /// Somebody keeps one locked ([`Kind::Conflict`]); MongoDB refuses it, or is unavailable.
    pub async fn update_at_once(
        &self,
        writer: Writer,
        collection: &str,
        filter: Document,
        update: Document,
        multi: bool,
    ) -> Result<usize> {
        let row = doc! { "q": filter, "u": update, "multi": multi };
        let row = RawDocumentBuf::try_from(&row).map_err(mongodb::error::Error::custom)?;
        let mut transaction = self.begin(writer).await?;
        match transaction.update(collection, [row].iter()).await {
            Ok(reply) => {
                transaction.commit().await?;
                Ok(reply.matched)
            }
            Err(error) => {
                transaction.abort().await;
                Err(error)
            }
        }
    }

    /// The sessions of this store's transactions, for the instances that find this one dead.
    pub fn session_ids(&self) -> Vec<Document> {
        self.connection.session_ids()
    }

    /// Ends another instance's sessions: a transaction that was open when it died is undone, and what it has changed is free again. MongoDB itself would wait for a minute (`transactionLifetimeLimitSeconds`).
    ///
    /// # Errors
    /// MongoDB is unavailable, or doesn't allow it: some hosted clusters don't.
    pub async fn end_sessions(&self, ids: &[Document]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.database().run_command(doc! { "killSessions": ids }).await?;
        Ok(())
    }
}

impl Transaction {
    /// Reads what matches.
    ///
    /// # Errors
    /// MongoDB did not do it.
    pub async fn find(
        &mut self,
        collection: &str,
        filter: Document,
        options: FindOptions,
    ) -> Result<Vec<RawDocumentBuf>> {
        self.find_while(collection, filter, options, |_| true).await
    }

    /// Reads what matches, until `keep` says no: that document and what comes after it are left out.
    ///
    /// # Errors
    /// MongoDB did not do it.
    pub async fn find_while(
        &mut self,
        collection: &str,
        filter: Document,
        options: FindOptions,
        mut keep: impl FnMut(&RawDocumentBuf) -> bool,
    ) -> Result<Vec<RawDocumentBuf>> {
        let (collection, session) = self.scope(collection);
        let find = collection.find(filter).with_options(options);
        let mut found = Vec::new();
        let mut cursor = find.session(&mut *session).await.map_err(spoiled)?;
        while let Some(document) = cursor.next(&mut *session).await {
            let document = document.map_err(spoiled)?;
            if !keep(&document) {
                break;
            }
            found.push(document);
        }
        Ok(found)
    }

    /// All that the pipeline yields.
    ///
    /// # Errors
    /// MongoDB did not do it.
    pub async fn aggregate(&mut self, collection: &str, pipeline: Vec<Document>) -> Result<Vec<RawDocumentBuf>> {
        let (collection, session) = self.scope(collection);
        let aggregate = collection.aggregate(pipeline).session(&mut *session);
        let mut cursor = aggregate.await.map_err(spoiled)?.with_type::<RawDocumentBuf>();
        let mut found = Vec::new();
        while let Some(document) = cursor.next(&mut *session).await {
            found.push(document.map_err(spoiled)?);
        }
        Ok(found)
    }

    /// Inserts all documents, in as many commands as it takes.
    ///
    /// # Errors
    /// MongoDB did not do it; a document that was refused is [`Error::row`].
    pub async fn insert<'a>(
        &mut self,
        collection: &str,
        documents: impl Iterator<Item = &'a RawDocumentBuf>,
    ) -> Result<()> {
        for command in command::inserts(collection, documents) {
            self.write(command).await?;
        }
        Ok(())
    }

    /// Runs the rows of an update, in as many commands as it takes: see [`super::update_row`], [`super::upsert_row`],
    /// [`super::insert_if_absent`].
    ///
    /// # Errors
    /// MongoDB did not do it; a row that was refused is [`Error::row`].
    pub async fn update<'a>(
        &mut self,
        collection: &str,
        rows: impl Iterator<Item = &'a RawDocumentBuf>,
    ) -> Result<WriteReply> {
        let mut total = WriteReply::default();
        for command in command::updates(collection, rows) {
            let reply = self.write(command).await?;
            total.matched += reply.matched;
            total.changed += reply.changed;
            total.inserted += reply.inserted;
        }
        Ok(total)
    }

    /// Commits it. Whether it was committed is asked until it is known: it may have been although no reply came.
    ///
    /// # Errors
    /// Nothing of it happened; or it is not known whether it did, because the transaction no longer exists
    /// ([`Kind::Conflict`]), the client was replaced, the daemon stops, or MongoDB says that it failed, which may be wrong. All of it must be
    /// repeated, each write comparing versions; what waits by it is looked for ([`Outage::failed_commit`](super::Outage::failed_commit)).
    pub async fn commit(self) -> Result<()> {
        let outage = self.store.outage.clone();
        let committed = self.commit_until_known().await;
        if committed.is_err() {
            outage.note_failed_commit();
        }
        committed
    }

    async fn commit_until_known(mut self) -> Result<()> {
        let mut backoff = Backoff::default();
        let mut reporter = self.store.outage.reporter();
        let mut is_unknown = false;
        loop {
            let began = Instant::now();
            let error = match self.writer.session.commit_transaction().await {
                Ok(()) => {
                    self.is_open = false;
                    reporter.succeeded();
                    self.store.connection.confirmed(&self.writer.session);
                    return Ok(());
                }
                Err(error) => Error::from(error).in_transaction(),
            };
            is_unknown |= error.unknown_commit();
            let may_be_made = error.unknown_commit() || is_unknown && error.kind() == Kind::Authentication;
            if !may_be_made {
                return Err(error);
            }
            reporter.failed("commit a transaction", &error, began);
            tokio::select! {
                () = self.store.stop.cancelled() => return Err(error),
                () = self.store.connection.renewed(self.writer.number) => return Err(error),
                () = backoff.wait() => {}
            }
        }
    }

    /// Gives it up: what it has changed is free again.
    pub async fn abort(mut self) {
        self.is_open = false;
        // If it fails: see `Store::begin` and `Store::end_sessions`.
        let _ = self.writer.session.abort_transaction().await;
    }

    async fn write(&mut self, command: Command) -> Result<WriteReply> {
        let database = self.database();
        let run = database.run_raw_command(command.body);
        let reply = run.session(&mut self.writer.session).await.map_err(spoiled)?;
        let reply = command::parse(&reply, command.first)?;
        match reply.refused.first() {
            Some(row) => Err(Error::of_row(*row).in_transaction()),
            None => Ok(reply.written),
        }
    }

    /// The collection of that name as the session's client knows it: the store may have another client by now.
    fn scope(&mut self, collection: &str) -> (Collection<RawDocumentBuf>, &mut ClientSession) {
        (self.database().collection(collection), &mut self.writer.session)
    }

    fn database(&self) -> Database {
        self.store.connection.database_of(&self.writer.session.client())
    }
}

fn spoiled(error: mongodb::error::Error) -> Error {
    Error::from(error).in_transaction()
}
