//! Where it is noted until when an endpoint is paused: as `slowedUntil` of its document in `webhook_state`.

use std::collections::BTreeMap;

use bson::{DateTime, RawDocumentBuf, rawdoc};

use super::Settlement;
use crate::model::EndpointKey;
use crate::store::upsert_row;

/// The `_id` of an endpoint's state.
pub fn state_id(endpoint: &EndpointKey) -> String {
    format!("endpoint/{endpoint}")
}

/// The rows of an update that record pauses, for endpoints whose responses asked for one.
pub(super) fn rows(settlements: &[Settlement]) -> Vec<RawDocumentBuf> {
    let mut ends: BTreeMap<&EndpointKey, DateTime> = BTreeMap::new();
    for settlement in settlements {
        if let Some(until) = settlement.paused_until {
            let latest = ends.entry(&settlement.delivery.endpoint).or_insert(until);
            *latest = until.max(*latest);
        }
    }
    let row = |(endpoint, until)| {
        let update = rawdoc! { "$max": { "slowedUntil": until } };
        upsert_row(rawdoc! { "_id": state_id(endpoint) }, update)
    };
    ends.into_iter().map(row).collect()
}
