//! Reading what has expired, in batches, one ahead of what is being processed.

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::{FindOptions, Hint};
use tokio::sync::mpsc;

use crate::config;
use crate::store::{Result, SCAN_INDEX, Stopped, Store};

/// A batch holds no more bytes than this, however large its documents are.
const BATCH_BYTES: usize = 8 << 20;

/// What has expired at `now` and is not marked. An absent or null `expiryReminderSent` counts as unsent; together with
/// `false` that is two ranges of the index, merged in the order of `expires`.
pub(crate) fn filter(now: DateTime, not_before: Option<DateTime>) -> Document {
    let mut expires = doc! { "$lte": now };
    if let Some(not_before) = not_before {
        expires.insert("$gte", not_before);
    }
    doc! { "expiryReminderSent": { "$in": [false, Bson::Null] }, "expires": expires }
}

/// Starts reading; batches come out of the receiver, the earliest expiry first.
pub(super) fn expired(
    store: &Store,
    config: &config::Scan,
    now: DateTime,
) -> mpsc::Receiver<std::result::Result<Vec<RawDocumentBuf>, Stopped>> {
    let (batches, receiver) = mpsc::channel(1);
    let reader = Reader {
        store: store.clone(),
        filter: filter(now, config.not_before),
        batch_size: config.batch_size as usize,
        hinted: config.ensure_indexes,
        batches,
    };
    tokio::spawn(reader.run());
    receiver
}

struct Reader {
    store: Store,
    filter: Document,
    batch_size: usize,
    hinted: bool,
    batches: mpsc::Sender<std::result::Result<Vec<RawDocumentBuf>, Stopped>>,
}

impl Reader {
    /// A cursor that breaks is opened anew: what was processed is marked, and does not come again.
    async fn run(self) {
        let done = self.store.persist("read expired certificates", || self.read()).await;
        if let Err(stopped) = done {
            let _ = self.batches.send(Err(stopped)).await;
        }
    }

    async fn read(&self) -> Result<()> {
        let mut options = FindOptions::builder().sort(doc! { "expires": 1 }).build();
        options.batch_size = u32::try_from(self.batch_size).ok();
        options.hint = self.hinted.then(|| Hint::Name(SCAN_INDEX.into()));
        let mut cursor = self
            .store
            .badge_users()
            .find(self.filter.clone())
            .with_options(options)
            .await?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(document) = cursor.try_next().await? {
            bytes += document.as_bytes().len();
            batch.push(document);
            if batch.len() >= self.batch_size || bytes >= BATCH_BYTES {
                bytes = 0;
                if self.batches.send(Ok(std::mem::take(&mut batch))).await.is_err() {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() {
            let _ = self.batches.send(Ok(batch)).await;
        }
        Ok(())
    }
}
