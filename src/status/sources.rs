//! Where events come from: the last scan, and the change stream.

use bson::{DateTime, Document, doc};
use serde::Serialize;

use super::{instant, number, rfc3339};
use crate::store::{Result, Store};

/// The last scan.
#[derive(Clone, Debug, Serialize)]
pub struct Scan {
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub at: DateTime,
    /// Certificates that had expired with the reminder unsent.
    pub found: i64,
    /// Deliveries that it appended.
    pub deliveries: i64,
    /// Documents that can't be events.
    pub rejected: i64,
    /// From its begin to its end.
    pub duration_ms: i64,
    /// The last scan that found something.
    pub found_last: Option<Find>,
}

/// What a scan found.
#[derive(Clone, Debug, Serialize)]
pub struct Find {
    /// When the scan ended.
    #[serde(serialize_with = "rfc3339")]
    pub at: DateTime,
    /// Certificates that had expired with the reminder unsent.
    pub found: i64,
    /// Deliveries that it appended.
    pub deliveries: i64,
}

/// The change stream.
#[derive(Clone, Debug, Serialize)]
pub struct Stream {
    /// When the stream last yielded an event, or said that there is none.
    #[serde(serialize_with = "rfc3339")]
    pub last_event_at: DateTime,
    /// Whether it looks by query for what it missed.
    pub catching_up: bool,
}

pub(super) async fn last_scan(store: &Store) -> Result<Option<Scan>> {
    let Some(document) = store.state().find_one(doc! { "_id": "scan" }).await? else {
        return Ok(None);
    };
    Ok(instant(&document, "at").map(|at| Scan {
        at,
        found: number(&document, "found"),
        deliveries: number(&document, "deliveries"),
        rejected: number(&document, "rejected"),
        duration_ms: number(&document, "durationMs"),
        found_last: document.get_document("foundLast").ok().and_then(find),
    }))
}

fn find(document: &Document) -> Option<Find> {
    instant(document, "at").map(|at| Find {
        at,
        found: number(document, "found"),
        deliveries: number(document, "deliveries"),
    })
}

pub(super) async fn stream(store: &Store) -> Result<Option<Stream>> {
    let Some(document) = store.state().find_one(doc! { "_id": "watch" }).await? else {
        return Ok(None);
    };
    Ok(instant(&document, "at").map(|at| Stream {
        last_event_at: at,
        catching_up: document.contains_key("catchUpFrom"),
    }))
}
