//! The indexes: one on the platform's certificates for the scan, and those of our outbox.

use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::IndexModel;
use mongodb::options::IndexOptions;
use tracing::info;

use super::{Result, Store};

/// The name of the scan's index on the certificates, where the daemon creates it.
pub const SCAN_INDEX: &str = "certhookd_scan";

/// Its keys, both ascending.
const SCAN_KEYS: [&str; 2] = ["expiryReminderSent", "expires"];

/// How long statistics are kept: a month can be compared with the same one a year ago.
const STATISTICS_KEPT: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The name of the index that serves the scan: created before, unless one serves already, and then the log says so.
///
/// Not partial: a filter on `expiryReminderSent: false` would leave out the documents that lack the field.
///
/// # Errors
/// MongoDB is away, or an index of that name has other keys or options.
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

/// The name of an index that serves the scan, whoever created it and whatever its name; `None` if there is none.
///
/// # Errors
/// MongoDB is away.
pub async fn scan_index(store: &Store) -> Result<Option<String>> {
    let indexes: Vec<IndexModel> = match store.badge_users().list_indexes().await {
        Ok(indexes) => indexes.try_collect().await?,
        Err(error) if is_namespace_not_found(&error) => Vec::new(),
        Err(error) => return Err(error),
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

/// Creates the outbox's indexes; `retention` is how long finished deliveries are kept. A changed retention is applied.
///
/// # Errors
/// MongoDB is away.
pub async fn ensure_deliveries(store: &Store, retention: Duration) -> Result<()> {
    let partial = |state: &str| {
        IndexOptions::builder()
            .partial_filter_expression(doc! { "state": state })
            .build()
    };
    // Partial: what is on its way has no entry to be written and moved.
    let expiry = IndexOptions::builder()
        .expire_after(retention)
        .partial_filter_expression(doc! { "finishedAt": { "$exists": true } })
        .build();
    let indexes = [
        index("pending", doc! { "endpoint": 1, "due": 1 }, partial("pending")),
        index("claimed", doc! { "claim.by": 1 }, partial("claimed")),
        index("dead", doc! { "endpoint": 1, "finishedAt": 1 }, partial("dead")),
        index("retention", doc! { "finishedAt": 1 }, expiry),
    ];
    match store.deliveries().create_indexes(indexes).await {
        Ok(_) => Ok(()),
        Err(error) if is_options_conflict(&error) => change_retention(store, retention).await,
        Err(error) => Err(error),
    }
}

/// Creates the indexes of the statistics.
///
/// # Errors
/// MongoDB is away.
pub async fn ensure_statistics(store: &Store) -> Result<()> {
    let expiry = IndexOptions::builder().expire_after(STATISTICS_KEPT).build();
    let indexes = [
        index("owner", doc! { "owner": 1, "day": 1 }, IndexOptions::default()),
        index("retention", doc! { "day": 1 }, expiry),
    ];
    store.statistics().create_indexes(indexes).await.map(drop)
}

async fn change_retention(store: &Store, retention: Duration) -> Result<()> {
    let seconds = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
    let command = doc! {
        "collMod": super::DELIVERIES,
        "index": { "name": "retention", "expireAfterSeconds": seconds },
    };
    store.database().run_command(command).await?;
    info!(
        retention_s = seconds,
        "finished deliveries are now kept for the configured retention"
    );
    Ok(())
}

fn index(name: &str, keys: Document, mut options: IndexOptions) -> IndexModel {
    options.name = Some(name.into());
    IndexModel::builder().keys(keys).options(options).build()
}

fn is_namespace_not_found(error: &mongodb::error::Error) -> bool {
    super::command_code(error) == Some(26)
}

/// `IndexOptionsConflict`: the index is there with another `expireAfterSeconds`.
fn is_options_conflict(error: &mongodb::error::Error) -> bool {
    super::command_code(error) == Some(85)
}
