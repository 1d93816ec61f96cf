//! The indexes: one on the platform's certificates for the scan, and those of our outbox.

use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::IndexModel;
use mongodb::options::IndexOptions;
use tracing::info;

use super::{Error, OPERATIONS, OUTBOX, Result, Store};

/// The name of the scan's index on the certificates, where the daemon creates it.
pub const SCAN_INDEX: &str = "certhookd_scan";

/// Its keys, both ascending.
const SCAN_KEYS: [&str; 2] = ["expiryReminderSent", "expires"];

/// The names of the outbox's indexes.
const OUTBOX_INDEXES: [&str; 4] = ["pending", "dead", "events", "retention"];

/// MongoDB's `NamespaceNotFound`.
const NAMESPACE_NOT_FOUND: i32 = 26;

/// MongoDB's `IndexOptionsConflict`: the index is there with another `expireAfterSeconds`.
const OPTIONS_CONFLICT: i32 = 85;

/// How long statistics are kept: a month can be compared with the same one a year ago.
const STATISTICS_KEPT: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The name of the index that serves the scan: created before, unless one serves already, and then the log says so.
///
/// Not partial: a filter on `expiryReminderSent: false` would leave out the documents that lack the field.
///
/// # Errors
/// MongoDB is unavailable, or an index of that name has other keys or options.
pub async fn ensure_scan(store: &Store) -> Result<String> {
    if let Some(name) = scan_index(store).await? {
        return Ok(name);
    }
    let keys: Document = SCAN_KEYS
        .iter()
        .map(|key| ((*key).to_owned(), Bson::Int32(1)))
        .collect();
    info!(collection = store.badge_users().name(), index = SCAN_INDEX, keys = %keys, "creating the index that serves the scan");
    store
        .badge_users()
        .create_index(index(SCAN_INDEX, keys, IndexOptions::default()))
        .await?;
    Ok(SCAN_INDEX.into())
}

/// The name of an index that serves the scan, also of one that somebody else created; `None` if there is none.
///
/// # Errors
/// MongoDB is unavailable.
pub async fn scan_index(store: &Store) -> Result<Option<String>> {
    let listed = store.badge_users().list_indexes().await.map_err(Error::from);
    let indexes: Vec<IndexModel> = match listed {
        Err(error) if error.code() == Some(NAMESPACE_NOT_FOUND) => Vec::new(),
        listed => listed?.try_collect().await?,
    };
    let serving = indexes.into_iter().find(serves_scan);
    Ok(serving.and_then(|index| index.options?.name))
}

/// The right keys, and no document left out.
fn serves_scan(index: &IndexModel) -> bool {
    let ascending = |value: &Bson| matches!(value, Bson::Int32(1) | Bson::Int64(1)) || value.as_f64() == Some(1.0);
    let whole = |options: &IndexOptions| {
        let skips = options.sparse == Some(true) || options.partial_filter_expression.is_some();
        !skips && options.hidden != Some(true) && options.collation.is_none()
    };
    index.keys.keys().eq(SCAN_KEYS) && index.keys.values().all(ascending) && index.options.as_ref().is_none_or(whole)
}

/// Which of the outbox's indexes are missing.
///
/// # Errors
/// MongoDB is unavailable.
pub async fn missing_in_outbox(store: &Store) -> Result<Vec<&'static str>> {
    let names = match store.outbox().list_index_names().await.map_err(Error::from) {
        Err(error) if error.code() == Some(NAMESPACE_NOT_FOUND) => Vec::new(),
        names => names?,
    };
    let is_missing = |name: &&str| !names.iter().any(|known| known == name);
    Ok(OUTBOX_INDEXES.into_iter().filter(is_missing).collect())
}

/// Creates the outbox's indexes; `retention` is how long finished documents are kept. A changed retention is applied.
///
/// # Errors
/// MongoDB is unavailable, or an index of one of these names has other keys.
pub async fn ensure_outbox(store: &Store, retention: Duration) -> Result<()> {
    let partial = |state: &str| {
        IndexOptions::builder()
            .partial_filter_expression(doc! { "state": state })
            .build()
    };
    // `_id` and `open` are read from the keys alone.
    let pending = doc! { "queue": 1, "due": 1, "_id": 1, "open": 1 };
    let indexes = [
        index("pending", pending, partial("pending")),
        index("dead", doc! { "endpoint": 1, "finishedAt": 1 }, partial("dead")),
        index("events", doc! { "deliveries.event": 1 }, IndexOptions::default()),
        retention_index(retention),
    ];
    create(store, OUTBOX, &indexes, retention).await
}

/// Creates the indexes of the statistics.
///
/// # Errors
/// MongoDB is unavailable, or an index of one of these names has other keys.
pub async fn ensure_statistics(store: &Store) -> Result<()> {
    let expiry = IndexOptions::builder().expire_after(STATISTICS_KEPT).build();
    let organization = doc! { "organization": 1, "day": 1 };
    let indexes = [
        index("organization", organization, IndexOptions::default()),
        index("retention", doc! { "day": 1 }, expiry),
    ];
    store.statistics().create_indexes(indexes).await?;
    Ok(())
}

/// Creates the indexes of the operations; `retention` is how long those that have ended are kept.
///
/// # Errors
/// MongoDB is unavailable, or an index of one of these names has other keys.
pub async fn ensure_operations(store: &Store, retention: Duration) -> Result<()> {
    let state = index("state", doc! { "state": 1, "_id": 1 }, IndexOptions::default());
    create(store, OPERATIONS, &[state, retention_index(retention)], retention).await
}

/// Partial: what is on its way has no entry to be written and moved.
pub(super) fn retention_index(retention: Duration) -> IndexModel {
    let expiry = IndexOptions::builder()
        .expire_after(retention)
        .partial_filter_expression(doc! { "finishedAt": { "$exists": true } })
        .build();
    index("retention", doc! { "finishedAt": 1 }, expiry)
}

/// Creates these indexes, one of which is [`retention_index`].
pub(super) async fn create(store: &Store, name: &str, indexes: &[IndexModel], retention: Duration) -> Result<()> {
    let collection = store.database().collection::<Document>(name);
    match collection.create_indexes(indexes.to_vec()).await.map_err(Error::from) {
        Err(error) if error.code() == Some(OPTIONS_CONFLICT) => {
            change_retention(store, name, retention).await?;
            // None was created beside the one that was there.
            collection.create_indexes(indexes.to_vec()).await?;
        }
        created => drop(created?),
    }
    Ok(())
}

async fn change_retention(store: &Store, collection: &str, retention: Duration) -> Result<()> {
    let seconds = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
    let command = doc! {
        "collMod": collection,
        "index": { "name": "retention", "expireAfterSeconds": seconds },
    };
    store.database().run_command(command).await?;
    info!(
        collection,
        retention_s = seconds,
        "what has ended is now kept for the configured retention"
    );
    Ok(())
}

pub(super) fn index(name: &str, keys: Document, mut options: IndexOptions) -> IndexModel {
    options.name = Some(name.into());
    IndexModel::builder().keys(keys).options(options).build()
}
