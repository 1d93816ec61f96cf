//! One delivery out of the documents that hold it.

use std::collections::BTreeMap;

use super::documents::{Stored, StoredDelivery};
use super::{Delivery, Next};
use crate::model::printable;
use crate::platform::Directory;

/// The longest name of an endpoint that is shown, in bytes.
const LONGEST_NAME: usize = 256;

/// The deliveries that were read, each once, with all its attempts.
pub(super) fn deliveries(
    read: &mut Stored,
    directory: &Directory,
    next: impl Fn(&StoredDelivery) -> Next,
) -> Vec<Delivery> {
    let mut deliveries: BTreeMap<(String, String), Vec<StoredDelivery>> = BTreeMap::new();
    for stored in read.deliveries.drain(..) {
        let key = (stored.event.clone(), stored.endpoint.clone());
        deliveries.entry(key).or_default().push(stored);
    }
    let merged = deliveries.into_values().filter_map(merge);
    merged.map(|stored| told(stored, directory, &next)).collect()
}

/// The latest document has the state: what left its batch, or was sent again from one, has a document of its own.
fn merge(mut all: Vec<StoredDelivery>) -> Option<StoredDelivery> {
    all.sort_by_key(|stored| (stored.state != "moved", stored.is_alone, stored.created_at));
    let mut latest = all.pop()?;
    for earlier in all {
        let unknown = |known: &[super::Attempt], at| known.iter().all(|attempt| attempt.at != at);
        let more: Vec<_> = earlier
            .history
            .into_iter()
            .filter(|one| unknown(&latest.history, one.at))
            .collect();
        latest.history.extend(more);
        latest.replays.extend(earlier.replays);
    }
    latest.history.sort_by_key(|attempt| attempt.at);
    latest.replays.sort_by_key(|replay| replay.at);
    Some(latest)
}

/// The delivery as it is shown.
pub(super) fn told(stored: StoredDelivery, directory: &Directory, next: impl Fn(&StoredDelivery) -> Next) -> Delivery {
    let (next, key) = (next(&stored), stored.key());
    Delivery {
        delivery: format!("{}/{}", stored.event, stored.endpoint),
        organization: key.organization().to_owned(),
        endpoint: key.endpoint().to_owned(),
        name: printable(directory.name(&key).as_bytes(), LONGEST_NAME),
        event: stored.event,
        event_type: stored.event_type,
        occurred_at: stored.occurred_at,
        state: stored.state,
        ended_at: stored.ended_at,
        reason: stored.reason,
        due: stored.due.filter(|_| stored.state == "pending"),
        attempts: stored.attempts,
        last_error: stored.last_error,
        next,
        history: stored.history,
        replays: stored.replays,
        document: stored.document,
    }
}
