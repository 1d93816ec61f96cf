//! Finding by query what the change stream can no longer tell.
//!
//! Repeats what was found before; the outbox knows it by its event id.

use bson::{DateTime, RawDocumentBuf, doc};
use futures_util::TryStreamExt;

use crate::store::{Result, Stopped, Store};

/// Clocks of the platform's servers may differ from the database's by this much, in milliseconds.
const MARGIN_MS: i64 = 10 * 60 * 1000;

/// Certificates that are taken together, at most.
const COUNT: usize = 500;
const BYTES: usize = 4 << 20;

/// Awards since an instant, in groups, each handed to `take`, until that says `false`: then `None` comes back. A walk through the whole collection: it happens after an
/// accident only, and is not worth an index on the platform's collection.
///
/// # Errors
/// The inner one: [`Stopped`] by `take`. The outer one: MongoDB refused or is unavailable, repeat from the start.
pub(super) async fn awards_since<F>(
    store: &Store,
    since: DateTime,
    mut take: impl FnMut(Vec<RawDocumentBuf>) -> F,
) -> Result<std::result::Result<Option<usize>, Stopped>>
where
    F: Future<Output = std::result::Result<bool, Stopped>>,
{
    let since = DateTime::from_millis(since.timestamp_millis() - MARGIN_MS);
    let filter = doc! { "$or": [{ "creationDate": { "$gte": since } }, { "createdAt": { "$gte": since } }] };
    let mut cursor = store.badge_users().find(filter).await?;
    let (mut group, mut bytes, mut found) = (Vec::new(), 0, 0);
    while let Some(document) = cursor.try_next().await? {
        bytes += document.as_bytes().len();
        found += 1;
        group.push(document);
        if group.len() >= COUNT || bytes >= BYTES {
            bytes = 0;
            match take(std::mem::take(&mut group)).await {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(None)),
                Err(Stopped) => return Ok(Err(Stopped)),
            }
        }
    }
    Ok(take(group).await.map(|goes_on| goes_on.then_some(found)))
}
