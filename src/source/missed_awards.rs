//! Awards that the change stream no longer yields, read by a query.
//!
//! It reads again what was found before; the outbox knows that by its event id.

use bson::{DateTime, RawDocumentBuf, doc};
use futures_util::TryStreamExt;

use crate::store::{Result, Stopped, Store};

/// Clocks of the platform's servers may differ from the database's by this much, in milliseconds.
const MARGIN_MS: i64 = 10 * 60 * 1000;

/// Certificates that are appended together, at most, and their bytes.
const COUNT: usize = 500;
const BYTES: usize = 4 << 20;

/// Reads the awards since an instant and hands them to `append`, up to [`COUNT`] at a time, until that returns `false`: then the
/// result is `None`, else how many were read. This reads the whole collection: it happens after an accident only, which is not worth
/// an index on the platform's collection.
///
/// # Errors
/// The inner one: [`Stopped`] by `append`. The outer one: MongoDB refused or is unavailable, repeat from the start.
pub(super) async fn awards_since<F>(
    store: &Store,
    since: DateTime,
    mut append: impl FnMut(Vec<RawDocumentBuf>) -> F,
) -> Result<std::result::Result<Option<usize>, Stopped>>
where
    F: Future<Output = std::result::Result<bool, Stopped>>,
{
    let since = DateTime::from_millis(since.timestamp_millis() - MARGIN_MS);
    let filter = doc! { "$or": [{ "creationDate": { "$gte": since } }, { "createdAt": { "$gte": since } }] };
    let mut cursor = store.badge_users().find(filter).await?;
    let mut read = 0;
    let mut awards = Vec::new();
    let mut bytes = 0;
    while let Some(document) = cursor.try_next().await? {
        read += 1;
        bytes += document.as_bytes().len();
        awards.push(document);
        if awards.len() >= COUNT || bytes >= BYTES {
            bytes = 0;
            match append(std::mem::take(&mut awards)).await {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(None)),
                Err(Stopped) => return Ok(Err(Stopped)),
            }
        }
    }
    Ok(append(awards).await.map(|goes_on| goes_on.then_some(read)))
}
