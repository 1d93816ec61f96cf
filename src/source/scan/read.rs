//! Reading what has expired, by the index alone.

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use mongodb::Cursor;
use mongodb::options::{FindOptions, Hint};

use crate::config;
use crate::store::{Result, Store, Transaction, ensure_scan, scan_index};

/// Bytes that are read for a page, at most, and one document more.
const PAGE_BYTES: usize = 8 << 20;

/// Certificates that are fetched at once, at least.
const LEAST_BATCH: usize = 16;

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
pub fn expired(now: DateTime, since: Option<DateTime>) -> Document {
    doc! { "expiryReminderSent": unsent(), "expires": passed(now, since) }
}

/// What [`expired`] would find if its types were right, and what is rejected. These are ranges of the same index, as a rule empty
/// ones.
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

fn passed(now: DateTime, since: Option<DateTime>) -> Document {
    let mut expires = doc! { "$lte": now };
    if let Some(since) = since {
        expires.insert("$gte", since);
    }
    expires
}

/// What a scan looks for, and how far it has come.
pub(super) struct Query {
    filter: Document,
    sorted: bool,
    index: Option<String>,
    /// The latest `expires` that was read: what comes before it is marked, or can't be.
    reached: Option<DateTime>,
    /// What expired at `reached` may be in a page that is not marked yet: it is left to a later query.
    of_pair: bool,
}

impl Query {
    /// What has expired at `now`, the earliest expiry first; then what has odd types. Served by `index`.
    pub(super) fn all(now: DateTime, config: &config::Scan, index: Option<&str>) -> Vec<Self> {
        let query = |filter, sorted| Self {
            filter,
            sorted,
            index: index.map(str::to_owned),
            reached: None,
            of_pair: false,
        };
        vec![
            query(expired(now, config.not_before), true),
            query(odd_filter(now, config.not_before), false),
        ]
    }

    /// What has expired between `since` and `now`, both included.
    pub(super) fn since(since: DateTime, now: DateTime, config: &config::Scan, index: Option<&str>) -> Vec<Self> {
        let since = config.not_before.map_or(since, |not_before| not_before.max(since));
        vec![Self {
            filter: expired(now, Some(since)),
            sorted: true,
            index: index.map(str::to_owned),
            reached: None,
            of_pair: false,
        }]
    }

    /// The same from its beginning, for pages that are read while those before them are being written.
    pub(super) fn for_pairs(&self) -> Option<Self> {
        self.sorted.then(|| Self {
            filter: self.filter.clone(),
            sorted: true,
            index: self.index.clone(),
            reached: self.reached,
            of_pair: true,
        })
    }

    /// The next documents, at most `most`, but for those that `is_left_out`.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub(super) async fn read(
        &self,
        transaction: &mut Transaction,
        store: &Store,
        most: usize,
        is_left_out: impl Fn(&RawDocumentBuf) -> bool,
    ) -> Result<Vec<RawDocumentBuf>> {
        let mut options = self.options();
        // Also where many are left out.
        options.batch_size = u32::try_from(most.max(LEAST_BATCH)).ok();
        let (mut count, mut bytes) = (0, 0);
        let found = transaction
            .find_while(store.badge_users().name(), self.remaining(), options, |document| {
                if count >= most || bytes >= PAGE_BYTES {
                    return false;
                }
                if !is_left_out(document) {
                    count += 1;
                    bytes += document.as_bytes().len();
                }
                true
            })
            .await?;
        Ok(found.into_iter().filter(|document| !is_left_out(document)).collect())
    }

    /// All of them, in a cursor.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub(super) async fn cursor(&self, store: &Store) -> Result<Cursor<RawDocumentBuf>> {
        let badge_users = store.badge_users();
        let find = badge_users.find(self.filter.clone());
        Ok(find.with_options(self.options()).await?)
    }

    /// Somebody dropped the index since the scan began. While it can't be asked for, the query fails as before and is tried again.
    pub(super) async fn read_index_again(&mut self, store: &Store, create: bool) {
        if let Ok(found) = index(store, create).await {
            self.index = found;
        }
    }

    /// This document and those before it need not be read again.
    pub(super) fn advance(&mut self, last: &RawDocumentBuf) {
        if self.sorted
            && let Ok(expires) = last.get_datetime("expires")
        {
            self.reached = Some(expires);
        }
    }

    fn options(&self) -> FindOptions {
        let mut options = FindOptions::default();
        options.hint = self.index.clone().map(Hint::Name);
        options.sort = self.sorted.then(|| doc! { "expires": 1 });
        options
    }

    /// Without what is done: the index still holds the keys of what was marked just now, and would have them skipped one by one.
    fn remaining(&self) -> Document {
        let mut filter = self.filter.clone();
        if let (Some(reached), Ok(expires)) = (self.reached, filter.get_document_mut("expires")) {
            expires.insert(if self.of_pair { "$gt" } else { "$gte" }, reached);
        }
        filter
    }
}

/// The index that serves the scan, created where that is wanted. Asked for every time: a collection that was dropped and made again has
/// no index.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub(super) async fn index(store: &Store, create: bool) -> Result<Option<String>> {
    if create {
        ensure_scan(store).await.map(Some)
    } else {
        scan_index(store).await
    }
}
