//! One transaction: documents of `webhook_state`, and the notices about them.

use bson::{Document, RawBson, RawDocumentBuf, doc, rawdoc};
use mongodb::options::FindOptions;

use super::super::Engine;
use crate::failpoint;
use crate::outbox::{BATCH_BYTES, NewDelivery};
use crate::store::{Result, STATE, Transaction, upsert_row};

/// What is written of one endpoint.
pub(super) struct Change {
    /// The row that changes its episode document, or its state document.
    row: RawDocumentBuf,
    notices: Vec<NewDelivery>,
}

impl Change {
    /// `update` is a document, or an array for a pipeline.
    pub(super) fn new(id: String, update: impl Into<RawBson>, notices: Vec<NewDelivery>) -> Self {
        Self {
            row: upsert_row(rawdoc! { "_id": id }, update),
            notices,
        }
    }

    fn bytes(&self) -> usize {
        let notices = self.notices.iter().map(|notice| notice.message.body.len());
        self.row.as_bytes().len() + notices.sum::<usize>()
    }
}

/// How many of these go into one transaction; the first in any case.
pub(super) fn fitting(changes: &[Change]) -> usize {
    let mut bytes = 0;
    let fits = changes.iter().take_while(|change| {
        bytes += change.bytes();
        bytes <= BATCH_BYTES
    });
    fits.count().max(1).min(changes.len())
}

/// The documents with these ids, as the transaction sees them.
pub(super) async fn read(transaction: &mut Transaction, ids: Vec<String>) -> Result<Vec<Document>> {
    let filter = doc! { "_id": { "$in": ids } };
    let found = transaction.find(STATE, filter, FindOptions::default()).await?;
    // One that can't be read as a whole is as one that is not there.
    Ok(found
        .iter()
        .filter_map(|found| Document::try_from(found).ok())
        .collect())
}

/// Writes the changes and appends their notices, and commits that.
///
/// # Errors
/// Nothing was written, or it is not known whether that was.
pub(super) async fn commit(engine: &Engine, mut transaction: Transaction, changes: Vec<Change>) -> Result<()> {
    let (are_told, now) = (engine.directory.tells_of_endpoints(), engine.clock.now());
    let (rows, notices): (Vec<_>, Vec<_>) = changes.into_iter().map(|one| (one.row, one.notices)).unzip();
    let mut notices: Vec<_> = notices.into_iter().flatten().collect();
    transaction.update(STATE, rows.iter()).await?;
    failpoint::reach("episodes-noted");
    if !are_told {
        notices.clear();
    }
    let appended = engine
        .outbox
        .append_in_transaction(&mut transaction, notices, usize::MAX, now)
        .await?;
    failpoint::reach("episode-to-be-committed");
    transaction.commit().await?;
    failpoint::reach("episode-committed");
    engine.outbox.announce(appended);
    Ok(())
}
