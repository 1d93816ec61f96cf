//! One delivery out of the documents that hold it.

use std::collections::BTreeMap;

use super::documents::{Place, Read};
use super::{Delivery, Next};
use crate::model::printable;
use crate::platform::Directory;

/// The longest name of an endpoint that is shown, in bytes.
const LONGEST_NAME: usize = 256;

/// The deliveries that were read, each once, with all its attempts.
pub(super) fn deliveries(read: &mut Read, directory: &Directory, next: impl Fn(&Place) -> Next) -> Vec<Delivery> {
    let mut deliveries: BTreeMap<(String, String), Vec<Place>> = BTreeMap::new();
    for place in read.places.drain(..) {
        let key = (place.event.clone(), place.endpoint.clone());
        deliveries.entry(key).or_default().push(place);
    }
    let merged = deliveries.into_values().filter_map(merge);
    merged.map(|place| told(place, directory, &next)).collect()
}

/// The latest document has the state: what left its batch, or was sent again from one, has a document of its own.
fn merge(mut places: Vec<Place>) -> Option<Place> {
    places.sort_by_key(|place| (place.state != "moved", place.is_alone, place.created_at));
    let mut latest = places.pop()?;
    for earlier in places {
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
pub(super) fn told(place: Place, directory: &Directory, next: impl Fn(&Place) -> Next) -> Delivery {
    let (next, key) = (next(&place), place.key());
    Delivery {
        delivery: format!("{}/{}", place.event, place.endpoint),
        organization: key.organization().to_owned(),
        endpoint: key.endpoint().to_owned(),
        name: printable(directory.name(&key).as_bytes(), LONGEST_NAME),
        event: place.event,
        event_type: place.event_type,
        occurred_at: place.occurred_at,
        state: place.state,
        ended_at: place.ended_at,
        reason: place.reason,
        due: place.due.filter(|_| place.state == "pending"),
        attempts: place.attempts,
        last_error: place.last_error,
        next,
        history: place.history,
        replays: place.replays,
        document: place.document,
    }
}
