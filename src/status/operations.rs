//! What operators and the back office asked for.

use bson::{DateTime, Document};
use serde::Serialize;

use super::{instant, number, rfc3339_if_known, text};
use crate::operations;
use crate::store::{Kind, Result, Store};

/// This many are shown.
const SHOWN: i64 = 10;

/// An operation of `webhook_operations`.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// Its `_id` as text.
    pub id: String,
    /// `replay`, `hold` and so on; text from outside.
    pub kind: String,
    /// Who asked for it; text from outside.
    pub by: String,
    /// Why; text from outside.
    pub reason: String,
    /// `waiting` before an instance has seen it.
    pub state: String,
    /// How many deliveries are done.
    pub done: i64,
    /// How many deliveries it is about, if that is known.
    pub of: Option<i64>,
    /// Why it was refused or has failed.
    pub error: Option<String>,
    /// When it was first begun.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub started_at: Option<DateTime>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub finished_at: Option<DateTime>,
}

impl Operation {
    fn read(document: &Document) -> Self {
        let progress = document.get_document("progress").ok();
        let state = text(document, "state");
        Self {
            id: document.get("_id").map(operations::id_text).unwrap_or_default(),
            kind: text(document, "kind"),
            by: text(document, "by"),
            reason: text(document, "reason"),
            state: if state.is_empty() { "waiting".into() } else { state },
            done: progress.map_or(0, |progress| number(progress, "done")),
            of: progress.and_then(|progress| progress.get_i64("of").ok()),
            error: document.get_str("error").ok().map(str::to_owned),
            started_at: instant(document, "startedAt"),
            finished_at: instant(document, "finishedAt"),
        }
    }
}

/// The last ones, the latest first; none where they may not be read.
pub(super) async fn last(store: &Store) -> Result<Vec<Operation>> {
    match operations::recent(store, SHOWN).await {
        Ok(found) => Ok(found.iter().map(Operation::read).collect()),
        Err(error) if error.kind() == Kind::Denied => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
