//! Reading what has expired, in batches, one ahead of what is being processed.

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::{FindOptions, Hint};
use tokio::sync::mpsc;

use crate::config;
use crate::store::{Result, Stopped, Store, ensure_scan, scan_index};

/// A batch holds no more bytes than this, however large its documents are.
const BATCH_BYTES: usize = 8 << 20;

/// What `expires` must not be, but for arrays: these are found by their elements, in either query.
const ODD_EXPIRES: [&str; 13] = [
    "number",
    "string",
    "symbol",
    "object",
    "binData",
    "objectId",
    "bool",
    "timestamp",
    "regex",
    "javascript",
    "javascriptWithScope",
    "minKey",
    "maxKey",
];

/// What `expiryReminderSent` must not be.
const ODD_FLAGS: [&str; 13] = [
    "number",
    "string",
    "symbol",
    "object",
    "binData",
    "objectId",
    "date",
    "timestamp",
    "regex",
    "javascript",
    "javascriptWithScope",
    "minKey",
    "maxKey",
];

/// What has expired at `now` and is not marked. An absent or null `expiryReminderSent` counts as unsent; together with
/// `false` that is two ranges of the index, merged in the order of `expires`.
fn expired_filter(now: DateTime, not_before: Option<DateTime>) -> Document {
    doc! { "expiryReminderSent": unsent(), "expires": passed(now, not_before) }
}

/// What would be in the first filter if its types were right: to be rejected. Ranges of the same index, as a rule empty ones.
fn odd_filter(now: DateTime, not_before: Option<DateTime>) -> Document {
    doc! { "$or": [
        { "expiryReminderSent": unsent(), "expires": { "$type": ODD_EXPIRES.as_slice() } },
        { "expiryReminderSent": { "$type": ODD_FLAGS.as_slice() }, "expires": passed(now, not_before) },
    ] }
}

fn unsent() -> Document {
    doc! { "$in": [false, Bson::Null] }
}

fn passed(now: DateTime, not_before: Option<DateTime>) -> Document {
    let mut expires = doc! { "$lte": now };
    if let Some(not_before) = not_before {
        expires.insert("$gte", not_before);
    }
    expires
}

/// Starts reading; batches come out of the receiver, the earliest expiry first, then what has odd types.
pub(super) fn expired(
    store: &Store,
    config: &config::Scan,
    now: DateTime,
) -> mpsc::Receiver<std::result::Result<Vec<RawDocumentBuf>, Stopped>> {
    let (batches, receiver) = mpsc::channel(1);
    let reader = Reader {
        store: store.clone(),
        expired: expired_filter(now, config.not_before),
        odd: odd_filter(now, config.not_before),
        batch_size: config.batch_size as usize,
        ensure_index: config.ensure_indexes,
        batches,
    };
    tokio::spawn(reader.run());
    receiver
}

struct Reader {
    store: Store,
    expired: Document,
    odd: Document,
    batch_size: usize,
    ensure_index: bool,
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
        // Asked every time: a collection that was dropped came back without its index.
        let index = if self.ensure_index {
            Some(ensure_scan(&self.store).await?)
        } else {
            scan_index(&self.store).await?
        };
        let mut options = FindOptions::default();
        options.batch_size = u32::try_from(self.batch_size).ok();
        options.hint = index.map(Hint::Name);
        options.sort = Some(doc! { "expires": 1 });
        self.read_matching(&self.expired, options.clone()).await?;
        options.sort = None;
        self.read_matching(&self.odd, options).await
    }

    async fn read_matching(&self, filter: &Document, options: FindOptions) -> Result<()> {
        let badge_users = self.store.badge_users();
        let mut cursor = badge_users.find(filter.clone()).with_options(options).await?;
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
