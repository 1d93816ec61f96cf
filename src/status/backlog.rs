//! What waits in the outbox and what is dead, in numbers.

use std::time::Duration;

use bson::doc;
use futures_util::TryStreamExt;
use serde::Serialize;

use super::{hint, number, queues, whole_seconds};
use crate::platform::Directory;
use crate::store::{OUTBOX, Result, Store};

/// The outbox in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// Deliveries that are pending, due now or later.
    pub pending: i64,
    /// Dead letters.
    #[serde(rename = "dead_letters")]
    pub dead: i64,
    /// How long a delivery that is due has been waiting for an endpoint that is served.
    #[serde(rename = "oldest_pending_s", serialize_with = "whole_seconds")]
    pub oldest: Option<Duration>,
}

/// Reads it from MongoDB; which endpoints are served is taken from `directory`. At most one document is read per queue.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn backlog(store: &Store, directory: &Directory) -> Result<Backlog> {
    let at = store.database_time().await?;
    let firsts = queues::firsts(store).await?;
    Ok(Backlog {
        pending: pending(store).await?,
        dead: dead_letters(store).await?,
        oldest: queues::oldest(store, directory, &firsts, at).await?,
    })
}

/// How many deliveries are pending. Each batch's number is a key of the index.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn pending(store: &Store) -> Result<i64> {
    let sum = doc! { "$group": { "_id": null, "open": { "$sum": "$open" } } };
    let mut cursor = store.outbox().aggregate([sum]).hint(hint("pending")).await?;
    Ok(cursor.try_next().await?.map_or(0, |row| number(&row, "open")))
}

/// How many dead letters are kept: all entries of their index. With a filter on the state MongoDB would read every document, too (2.3 s
/// instead of 0.2 s for 300,000).
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn dead_letters(store: &Store) -> Result<i64> {
    let command = doc! { "count": OUTBOX, "query": {}, "hint": "dead" };
    let reply = store.database().run_command(command).await?;
    Ok(number(&reply, "n"))
}
