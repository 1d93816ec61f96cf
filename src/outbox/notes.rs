//! What results say of their endpoints, in the documents of these in `webhook_state`: until when one is paused (`slowedUntil`), and of
//! how many dead letters the platform was not told (`deadUntold`; `keptUntold` of them don't go out again by themselves).

use std::collections::BTreeMap;

use bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, cstr, doc, rawdoc};

use super::{Next, Settlement};
use crate::model::EndpointKey;
use crate::store::{increased, upsert_row};

/// The `_id` of an endpoint's state.
pub fn state_id(endpoint: &EndpointKey) -> String {
    format!("endpoint/{endpoint}")
}

/// The filter for the states of all endpoints.
pub fn all_states() -> Document {
    doc! { "_id": { "$gte": "endpoint/", "$lt": "endpoint0" } }
}

/// The endpoint whose state that is.
pub fn endpoint_of_state(document: &Document) -> Option<EndpointKey> {
    let id = document.get_str("_id").ok()?;
    id.strip_prefix("endpoint/").map(EndpointKey::from_stored)
}

/// The row that notes this many dead letters of which the platform must be told. None of them goes out again by itself.
pub(super) fn dead_row(endpoint: &EndpointKey, dead: i64) -> RawDocumentBuf {
    let note = Note {
        dead,
        kept: dead,
        ..Note::default()
    };
    note.row(endpoint)
}

#[derive(Default)]
struct Note {
    paused_until: Option<DateTime>,
    dead: i64,
    /// Those of them that don't go out again by themselves.
    kept: i64,
}

/// The rows of an update that record it.
pub(super) fn rows(settlements: &[Settlement]) -> Vec<RawDocumentBuf> {
    let mut notes: BTreeMap<&EndpointKey, Note> = BTreeMap::new();
    for settlement in settlements {
        if settlement.paused_until.is_some() || settlement.must_tell_death {
            let note = notes.entry(&settlement.delivery.endpoint).or_default();
            note.paused_until = note.paused_until.max(settlement.paused_until);
            note.dead += i64::from(settlement.must_tell_death);
            note.kept += i64::from(settlement.must_tell_death && !is_redrivable(&settlement.next));
        }
    }
    notes.into_iter().map(|(endpoint, note)| note.row(endpoint)).collect()
}

impl Note {
    /// A pipeline, so that nothing that somebody has put there keeps results from being recorded.
    fn row(&self, endpoint: &EndpointKey) -> RawDocumentBuf {
        let mut set = RawDocumentBuf::new();
        if let Some(until) = self.paused_until {
            set.append(cstr!("slowedUntil"), rawdoc! { "$max": ["$slowedUntil", until] });
        }
        if self.dead > 0 {
            set.append(cstr!("deadUntold"), increased("deadUntold", self.dead, self.dead));
            set.append(cstr!("keptUntold"), increased("keptUntold", self.kept, self.kept));
        }
        let pipeline: RawArrayBuf = [rawdoc! { "$set": set }].into_iter().collect();
        upsert_row(rawdoc! { "_id": state_id(endpoint) }, pipeline)
    }
}

fn is_redrivable(next: &Next) -> bool {
    matches!(next, Next::Dead { redrivable: true, .. })
}
