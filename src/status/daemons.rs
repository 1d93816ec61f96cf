//! The daemons, and who of them scans and watches.

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::{instant, number, rfc3339, text};
use crate::cluster::ALIVE;
use crate::store::{Result, Store};

/// One run of a daemon.
#[derive(Clone, Debug, Serialize)]
pub struct Daemon {
    /// Its name.
    pub id: String,
    /// The machine.
    pub host: String,
    /// The process there.
    pub pid: i64,
    /// What runs.
    pub version: String,
    /// Whether it sent a heartbeat lately.
    pub alive: bool,
    /// When it sent the last one.
    pub seen_s_ago: i64,
    /// When it started.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: DateTime,
    /// The leases that it holds: `scan`, `watch`.
    pub leases: Vec<String>,
}

/// All that are remembered, those heard of last first.
pub(super) async fn daemons(store: &Store, now: DateTime) -> Result<Vec<Daemon>> {
    let filter = doc! { "_id": { "$gte": "daemon/", "$lt": "lease0" } };
    let state = store.state();
    let found = state.find(filter).sort(doc! { "seenAt": -1 }).await?;
    let found: Vec<Document> = found.try_collect().await?;
    let (leases, daemons): (Vec<_>, Vec<_>) = found
        .iter()
        .partition(|document| text(document, "_id").starts_with("lease/"));
    Ok(daemons
        .into_iter()
        .map(|document| daemon(document, &leases, now))
        .collect())
}

fn daemon(document: &Document, leases: &[&Document], now: DateTime) -> Daemon {
    let id = text(document, "_id").trim_start_matches("daemon/").to_owned();
    let never = DateTime::from_millis(0);
    let ago = now.timestamp_millis() - instant(document, "seenAt").unwrap_or(never).timestamp_millis();
    let alive = u128::try_from(ago).unwrap_or(0) < ALIVE.as_millis();
    let held = leases.iter().filter(|lease| alive && text(lease, "holder") == id);
    Daemon {
        leases: held
            .map(|lease| text(lease, "_id").trim_start_matches("lease/").to_owned())
            .collect(),
        host: text(document, "host"),
        pid: number(document, "pid"),
        version: text(document, "version"),
        alive,
        seen_s_ago: ago / 1000,
        started_at: instant(document, "startedAt").unwrap_or(never),
        id,
    }
}
