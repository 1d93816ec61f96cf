//! The instances, and which of them scans and watches.

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::{instant, number, rfc3339, text};
use crate::cluster::ALIVE;
use crate::store::{LEASE, Result, Store};

/// One run of the daemon.
#[derive(Clone, Debug, Serialize)]
pub struct Instance {
    /// As in `webhook_state`.
    pub id: String,
    /// The name of its machine.
    pub host: String,
    /// Its process.
    pub pid: i64,
    /// The version of certhookd.
    pub version: String,
    /// `alive`, `leaving` while it shuts down, or `dead`.
    pub state: &'static str,
    /// When it sent the last heartbeat.
    pub seen_s_ago: i64,
    /// When it started.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: DateTime,
    /// Whether it holds the lease on the sources: it is the one that scans and watches.
    pub holds_lease: bool,
    /// Events since it started whose organization had no configuration document.
    pub unconfigured_events: i64,
}

/// All whose heartbeats are kept, the latest heartbeat first.
pub(super) async fn instances(store: &Store, now: DateTime) -> Result<Vec<Instance>> {
    // The instances, and the lease after them.
    let filter = doc! { "_id": { "$gte": "instance/", "$lt": "lease0" } };
    let state = store.state();
    let found = state.find(filter).sort(doc! { "seenAt": -1 }).await?;
    let found: Vec<Document> = found.try_collect().await?;
    let lease = found.iter().find(|document| text(document, "_id") == LEASE);
    let holder = lease.map(|lease| text(lease, "holder"));
    let read = |document| instance(document, holder.as_deref(), now);
    Ok(found.iter().filter_map(read).collect())
}

fn instance(document: &Document, holder: Option<&str>, now: DateTime) -> Option<Instance> {
    let id = document.get_str("_id").ok()?.strip_prefix("instance/")?;
    let never = DateTime::from_millis(0);
    let ago = now.timestamp_millis() - instant(document, "seenAt").unwrap_or(never).timestamp_millis();
    let alive = u128::try_from(ago).unwrap_or(0) < ALIVE.as_millis();
    let state = match document.get_bool("leaving") {
        _ if !alive => "dead",
        Ok(true) => "leaving",
        _ => "alive",
    };
    Some(Instance {
        host: text(document, "host"),
        pid: number(document, "pid"),
        version: text(document, "version"),
        state,
        seen_s_ago: ago.max(0) / 1000,
        started_at: instant(document, "startedAt").unwrap_or(never),
        unconfigured_events: number(document, "unconfigured"),
        holds_lease: alive && holder == Some(id),
        id: id.to_owned(),
    })
}
