//! Finding by query what the change stream can no longer tell.
//!
//! Repeats what was found before; the outbox knows it by its id.

use bson::{DateTime, RawDocumentBuf, doc};
use futures_util::TryStreamExt;

use crate::store::{Result, Store};

/// Clocks of the platform's servers may differ from the database's by so much, in milliseconds.
const MARGIN_MS: i64 = 10 * 60 * 1000;

/// A batch holds no more than this.
const BATCH: usize = 1000;
const BATCH_BYTES: usize = 8 << 20;

/// Awards since an instant, in batches, each handed to `take`. A walk through the whole collection: it happens after an
/// accident only, and is not worth an index on the platform's collection.
///
/// # Errors
/// MongoDB is away, or `take` failed: repeat from the start.
pub(super) async fn awards_since<F>(
    store: &Store,
    since: DateTime,
    mut take: impl FnMut(Vec<RawDocumentBuf>) -> F,
) -> Result<usize>
where
    F: Future<Output = Result<()>>,
{
    let since = DateTime::from_millis(since.timestamp_millis() - MARGIN_MS);
    let filter = doc! { "$or": [{ "creationDate": { "$gte": since } }, { "createdAt": { "$gte": since } }] };
    let mut cursor = store.badge_users().find(filter).await?;
    let (mut batch, mut bytes, mut found) = (Vec::new(), 0, 0);
    while let Some(document) = cursor.try_next().await? {
        bytes += document.as_bytes().len();
        found += 1;
        batch.push(document);
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            bytes = 0;
            take(std::mem::take(&mut batch)).await?;
        }
    }
    take(batch).await?;
    Ok(found)
}
