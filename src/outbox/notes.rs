//! What results say of their endpoints, in the documents of these in `webhook_state`: until when one is paused (`slowedUntil`), and of
//! how many dead letters the platform was not told (`deadUntold`).

use std::collections::BTreeMap;

use bson::{DateTime, RawDocumentBuf, cstr, rawdoc};

use super::Settlement;
use crate::model::EndpointKey;
use crate::store::upsert_row;

/// The `_id` of an endpoint's state.
pub fn state_id(endpoint: &EndpointKey) -> String {
    format!("endpoint/{endpoint}")
}

/// The row that notes this many dead letters of which the platform is to be told.
pub(super) fn dead_row(endpoint: &EndpointKey, dead: i64) -> RawDocumentBuf {
    upsert_row(
        rawdoc! { "_id": state_id(endpoint) },
        rawdoc! { "$inc": { "deadUntold": dead } },
    )
}

#[derive(Default)]
struct Note {
    paused_until: Option<DateTime>,
    dead: i64,
}

/// The rows of an update that record it.
pub(super) fn rows(settlements: &[Settlement]) -> Vec<RawDocumentBuf> {
    let mut notes: BTreeMap<&EndpointKey, Note> = BTreeMap::new();
    for settlement in settlements {
        if settlement.paused_until.is_some() || settlement.is_death_told {
            let note = notes.entry(&settlement.delivery.endpoint).or_default();
            note.paused_until = note.paused_until.max(settlement.paused_until);
            note.dead += i64::from(settlement.is_death_told);
        }
    }
    let row = |(endpoint, note): (&EndpointKey, Note)| {
        let mut update = RawDocumentBuf::new();
        if let Some(until) = note.paused_until {
            update.append(cstr!("$max"), rawdoc! { "slowedUntil": until });
        }
        if note.dead > 0 {
            update.append(cstr!("$inc"), rawdoc! { "deadUntold": note.dead });
        }
        upsert_row(rawdoc! { "_id": state_id(endpoint) }, update)
    };
    notes.into_iter().map(row).collect()
}
