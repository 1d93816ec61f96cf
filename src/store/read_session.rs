//! Reads that see what this instance has written, also after a failover.

use bson::{Document, RawDocumentBuf};
use mongodb::options::{AggregateOptions, FindOptions, ReadConcern};
use mongodb::{ClientSession, Collection};

use super::{Result, Store};

/// A causally consistent session: it reads what a majority has, and nothing older than the store's last confirmed write. Without
/// it a new primary may show as open what was settled before.
pub struct ReadSession {
    store: Store,
    session: ClientSession,
}

impl Store {
    /// A session for a few reads.
    ///
    /// # Errors
    /// MongoDB is unavailable.
    pub async fn read_session(&self) -> Result<ReadSession> {
        let client = self.connection.client();
        let mut session = client.start_session().causal_consistency(true).await?;
        self.connection.last_confirmed().precedes(&mut session);
        Ok(ReadSession {
            store: self.clone(),
            session,
        })
    }
}

impl ReadSession {
    /// Reads what matches, and hands each document to `visit` until that says `false`. Returns whether it never did.
    ///
    /// # Errors
    /// MongoDB is unavailable, or refuses.
    pub async fn find(
        &mut self,
        collection: &str,
        filter: Document,
        mut options: FindOptions,
        mut visit: impl FnMut(RawDocumentBuf) -> bool,
    ) -> Result<bool> {
        options.read_concern = Some(ReadConcern::majority());
        let collection = self.scope(collection);
        let find = collection.find(filter).with_options(options);
        let mut cursor = find.session(&mut self.session).await?;
        while let Some(document) = cursor.next(&mut self.session).await {
            if !visit(document?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what the pipeline yields, and hands each document to `visit` until that says `false`. Returns whether it never did.
    ///
    /// # Errors
    /// MongoDB is unavailable, or refuses.
    pub async fn aggregate(
        &mut self,
        collection: &str,
        pipeline: Vec<Document>,
        mut options: AggregateOptions,
        mut visit: impl FnMut(RawDocumentBuf) -> bool,
    ) -> Result<bool> {
        options.read_concern = Some(ReadConcern::majority());
        let collection = self.scope(collection);
        let aggregate = collection.aggregate(pipeline).with_options(options);
        let cursor = aggregate.session(&mut self.session).await?;
        let mut cursor = cursor.with_type::<RawDocumentBuf>();
        while let Some(document) = cursor.next(&mut self.session).await {
            if !visit(document?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The collection of that name as the session's client knows it: the store may have another client by now.
    fn scope(&self, collection: &str) -> Collection<RawDocumentBuf> {
        let database = self.store.connection.database_of(&self.session.client());
        database.collection(collection)
    }
}
