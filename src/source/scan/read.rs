//! Finding what has expired, by the index alone.

use bson::{Bson, DateTime, Document, RawBson, RawDocumentBuf, doc};
use mongodb::Cursor;
use mongodb::options::{FindOptions, Hint};

use crate::config;
use crate::store::{Result, Store, Unit, ensure_scan, scan_index};

/// A portion holds not much more bytes than this, however large its documents are.
const PORTION_BYTES: usize = 8 << 20;

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
        { "expiryReminderSent": { "$type": ODD_FLAGS.as_slice() }, "expires": { "$type": ODD_EXPIRES.as_slice() } },
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

/// What a scan looks for, and how far it has come.
pub(super) struct Query {
    filter: Document,
    sorted: bool,
    index: Option<String>,
    /// The latest `expires` that was read: what is behind it is marked.
    reached: Option<DateTime>,
    /// `_id`s of what can't be marked.
    refused: Vec<Bson>,
}

impl Query {
    /// What has expired at `now`, the earliest expiry first; then what has odd types. Served by `index`.
    pub(super) fn all(now: DateTime, config: &config::Scan, index: Option<&str>) -> [Self; 2] {
        let query = |filter, sorted| Self {
            filter,
            sorted,
            index: index.map(str::to_owned),
            reached: None,
            refused: Vec::new(),
        };
        [
            query(expired_filter(now, config.not_before), true),
            query(odd_filter(now, config.not_before), false),
        ]
    }

    /// The next documents, at most so many.
    ///
    /// # Errors
    /// MongoDB is away.
    pub(super) async fn read(&self, unit: &mut Unit, store: &Store, most: usize) -> Result<Vec<RawDocumentBuf>> {
        let mut options = self.options();
        options.limit = i64::try_from(most).ok();
        options.batch_size = u32::try_from(most).ok();
        unit.find(&store.badge_users(), self.remaining(), options, PORTION_BYTES)
            .await
    }

    /// All of them, in a cursor.
    ///
    /// # Errors
    /// MongoDB is away.
    pub(super) async fn cursor(&self, store: &Store) -> Result<Cursor<RawDocumentBuf>> {
        let badge_users = store.badge_users();
        let find = badge_users.find(self.filter.clone());
        find.with_options(self.options()).await
    }

    /// These are done with, but for what was refused.
    pub(super) fn advance(&mut self, documents: &[RawDocumentBuf], refused: Vec<RawBson>) {
        let last = documents.last().filter(|_| self.sorted);
        if let Some(expires) = last.and_then(|document| document.get_datetime("expires").ok()) {
            self.reached = Some(expires);
        }
        self.refused
            .extend(refused.into_iter().filter_map(|id| Bson::try_from(id).ok()));
    }

    fn options(&self) -> FindOptions {
        let mut options = FindOptions::default();
        options.hint = self.index.clone().map(Hint::Name);
        options.sort = self.sorted.then(|| doc! { "expires": 1 });
        options
    }

    /// Without what is behind: the index still holds the keys of what was marked just now, and would have them skipped one by one.
    fn remaining(&self) -> Document {
        let mut filter = self.filter.clone();
        if let (Some(reached), Ok(expires)) = (self.reached, filter.get_document_mut("expires")) {
            expires.insert("$gte", reached);
        }
        if !self.refused.is_empty() {
            filter.insert("_id", doc! { "$nin": self.refused.clone() });
        }
        filter
    }
}

/// The index that serves the scan, created where that is wanted. Asked every time: a collection that was dropped came back
/// without its index.
///
/// # Errors
/// MongoDB is away.
pub(super) async fn index(store: &Store, create: bool) -> Result<Option<String>> {
    if create {
        ensure_scan(store).await.map(Some)
    } else {
        scan_index(store).await
    }
}
