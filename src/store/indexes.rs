//! The indexes: one on the platform's certificates for the scan, and those of our outbox.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::IndexModel;
use mongodb::options::IndexOptions;
use tracing::info;

use super::{Result, Store};

/// The name of the scan's index on the certificates.
pub const SCAN_INDEX: &str = "certhookd_scan";

/// Creates the index that serves the scan, unless it is there, and says so in the log.
///
/// Not partial: a filter on `expiryReminderSent: false` would leave out the documents that lack the field.
///
/// # Errors
/// MongoDB is away, or an index of that name has other keys.
pub async fn ensure_scan(store: &Store) -> Result<()> {
    if scan_index_present(store).await? {
        return Ok(());
    }
    let keys = doc! { "expiryReminderSent": 1, "expires": 1 };
    info!(collection = store.badge_users().name(), index = SCAN_INDEX, keys = %keys, "creating the index that serves the scan");
    store
        .badge_users()
        .create_index(index(SCAN_INDEX, keys, IndexOptions::default()))
        .await?;
    Ok(())
}

/// Whether the scan's index is there.
///
/// # Errors
/// MongoDB is away.
pub async fn scan_index_present(store: &Store) -> Result<bool> {
    match store.badge_users().list_index_names().await {
        Ok(names) => Ok(names.iter().any(|name| name == SCAN_INDEX)),
        Err(error) if is_namespace_not_found(&error) => Ok(false),
        Err(error) => Err(error),
    }
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
    let expiry = IndexOptions::builder().expire_after(retention).build();
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
