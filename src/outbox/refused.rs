//! Documents that MongoDB refuses to change, as a validator does with those that were there before it: left alone for a growing
//! pause, while the others of their endpoint go on.

use std::time::Instant;

use bson::{Bson, RawDocumentBuf};
use tracing::error;

use super::Outbox;
use super::versions::{compared_row, raw};
use crate::model::EndpointKey;
use crate::store::{Error, OUTBOX, Result, Transaction};

impl Outbox {
    /// The documents of that endpoint that are left alone now.
    pub(super) fn left_alone(&self, endpoint: &EndpointKey) -> Vec<Bson> {
        let refused = self.refused.lock();
        let of_endpoint = refused.at(Instant::now()).filter(|(of, _)| of == endpoint);
        of_endpoint.map(|(_, id)| id.clone()).collect()
    }

    /// Whether that document is left alone now.
    pub fn is_left_alone(&self, endpoint: &EndpointKey, id: &Bson) -> bool {
        self.left_alone(endpoint).contains(id)
    }

    /// Changes these documents of an endpoint, as they were read in the transaction. Returns the refusal of a single one: that is
    /// left alone from now on, and nothing was changed.
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub(super) async fn change_in_transaction(
        &self,
        transaction: &mut Transaction,
        endpoint: &EndpointKey,
        documents: &[RawDocumentBuf],
        (set, unset): (RawDocumentBuf, RawDocumentBuf),
    ) -> Result<Option<Error>> {
        let row = |document| compared_row(document, set.clone(), unset.clone());
        let rows: Vec<_> = documents.iter().map(|document| row(document)).collect();
        match transaction.update(OUTBOX, rows.iter()).await {
            Ok(_) => Ok(None),
            Err(error) if self.leave_alone(endpoint, documents, &error) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Whether that error is a single document's own, of those that were to be changed: then it is left alone from now on.
    fn leave_alone(&self, endpoint: &EndpointKey, changed: &[RawDocumentBuf], error: &Error) -> bool {
        let row = error.row().filter(|_| error.kind().is_of_content());
        let document = row.and_then(|row| changed.get(row.index));
        let id = document.and_then(|document| Bson::try_from(raw(document, "_id")).ok());
        let Some(id) = id else { return false };
        self.refuse(endpoint, id, error);
        true
    }

    /// That document is left alone from now on.
    pub(super) fn refuse(&self, endpoint: &EndpointKey, id: Bson, error: &Error) {
        let document = id.to_string();
        let pause = self
            .refused
            .lock()
            .refused((endpoint.clone(), id), Instant::now())
            .as_secs();
        error!(%endpoint, document, %error, "MongoDB refuses to change this document of the outbox: it is left alone for {pause} s, the others go on");
    }
}
