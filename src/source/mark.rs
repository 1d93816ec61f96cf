//! Marking certificates whose expiry is in the outbox: the only write to the platform's documents.

use std::collections::HashSet;

use bson::{DateTime, RawBson, RawDocument, RawDocumentBuf, doc, rawdoc};
use futures_util::TryStreamExt;
use tracing::warn;

use crate::store::{Result, Stopped, Store, update_row};

/// A certificate that is to be marked, as it was read.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) badge_user: RawBson,
    pub(super) expires: RawBson,
}

impl Mark {
    /// What identifies the certificate and its expiry.
    pub(super) fn of(document: &RawDocument) -> Self {
        let field = |name| document.get(name).ok().flatten().map_or(RawBson::Null, RawBson::from);
        Self {
            badge_user: field("_id"),
            expires: field("expires"),
        }
    }
}

/// Marks the certificates at `now`, each only if it still expires when it did as it was read. Returns the places of those that
/// were renewed, re-dated or deleted meanwhile.
///
/// # Errors
/// [`Stopped`] when the daemon stops before MongoDB confirmed the write.
pub(super) async fn mark(store: &Store, marks: &[Mark], now: DateTime) -> std::result::Result<HashSet<usize>, Stopped> {
    if marks.is_empty() {
        return Ok(HashSet::new());
    }
    let rows: Vec<_> = marks.iter().map(|mark| row(mark, now)).collect();
    let collection = store.badge_users();
    store
        .persist("mark expired certificates", || async {
            let reply = store.update_rows(collection.name(), rows.iter()).await?;
            if let Some(refused) = reply.errors.first() {
                warn!(
                    certificates = reply.errors.len(), code = refused.code,
                    "MongoDB refused to mark certificates: sent once, and found again by every scan until they can be written"
                );
            }
            if reply.matched == marks.len() {
                Ok(HashSet::new())
            } else {
                renewed(store, marks).await
            }
        })
        .await
}

fn row(mark: &Mark, now: DateTime) -> RawDocumentBuf {
    let filter = rawdoc! {
        "_id": mark.badge_user.clone(),
        // As a value, whatever it is: a document would be taken for operators.
        "expires": { "$eq": mark.expires.clone() },
        "expiryReminderSent": { "$ne": true },
    };
    update_row(
        filter,
        rawdoc! { "$set": { "expiryReminderSent": true, "updatedAt": now } },
        false,
    )
}

/// Which of them no longer expire when they did. One that another daemon marked meanwhile, or this one in a try whose answer
/// was lost, still does: its event is true.
async fn renewed(store: &Store, marks: &[Mark]) -> Result<HashSet<usize>> {
    let ids: Vec<_> = marks.iter().map(|mark| mark.badge_user.clone()).collect();
    let ids = bson::Bson::try_from(RawBson::Array(ids.into_iter().collect())).map_err(mongodb::error::Error::custom)?;
    let collection = store.badge_users();
    let find = collection
        .find(doc! { "_id": { "$in": ids } })
        .projection(doc! { "expires": 1 });
    let found: Vec<RawDocumentBuf> = find.await?.try_collect().await?;
    let unchanged: HashSet<_> = found.iter().map(|document| key(&Mark::of(document))).collect();
    Ok((0..marks.len())
        .filter(|place| !unchanged.contains(&key(&marks[*place])))
        .collect())
}

fn key(mark: &Mark) -> Vec<u8> {
    rawdoc! { "i": mark.badge_user.clone(), "e": mark.expires.clone() }.into_bytes()
}
