//! What became of an endpoint's deliveries, day by day.

use std::collections::HashMap;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;

use super::endpoints::{DAY_MS, DAYS};
use super::{instant, number, text};
use crate::model::EndpointKey;
use crate::statistics;
use crate::store::{Result, Store};

/// One day (UTC) of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Day {
    /// As in `2026-11-24`.
    pub day: String,
    /// Deliveries that it accepted.
    pub delivered: i64,
    /// Attempts that failed.
    pub failed_attempts: i64,
    /// Deliveries that became dead letters.
    pub dead: i64,
    /// Deliveries that ended because it was deleted or disabled.
    pub cancelled: i64,
    /// When it last accepted one.
    pub last_success: Option<DateTime>,
    /// When an attempt last failed.
    pub last_failure: Option<DateTime>,
    /// What failed then; text from outside.
    pub last_failure_reason: String,
}

/// The last [`DAYS`] days, today first; those without figures too. A look-up by `_id`.
pub(crate) async fn days(store: &Store, endpoint: &EndpointKey, now: DateTime) -> Result<Vec<Day>> {
    let instants = (0..DAYS).map(|ago| DateTime::from_millis(now.timestamp_millis() - ago * DAY_MS));
    let ids: Vec<_> = instants.map(|at| statistics::id(endpoint, at)).collect();
    let found = store.statistics().find(doc! { "_id": { "$in": &ids } }).await?;
    let found: Vec<Document> = found.try_collect().await?;
    let mut found: HashMap<_, _> = found.iter().map(|one| (text(one, "_id"), read(one))).collect();
    let day = |id: String| Day {
        day: id.rsplit('/').next().unwrap_or_default().to_owned(),
        ..found.remove(&id).unwrap_or_default()
    };
    Ok(ids.into_iter().map(day).collect())
}

fn read(figures: &Document) -> Day {
    Day {
        day: String::new(),
        delivered: number(figures, "successes"),
        failed_attempts: number(figures, "failures"),
        dead: number(figures, "dead"),
        cancelled: number(figures, "cancelled"),
        last_success: instant(figures, "lastSuccess"),
        last_failure: instant(figures, "lastFailure"),
        last_failure_reason: text(figures, "lastFailureReason"),
    }
}
