//! Which endpoints have succeeded since their episode was written down: an instance that records a success may die before it writes that
//! the episode has ended.

use std::collections::HashMap;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;

use crate::model::EndpointKey;
use crate::notices::Noted;
use crate::statistics;
use crate::store::{Error, Result, Store};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A success is looked for in the figures of this many days after the last failure that was written down.
const DAYS: u32 = 7;

/// When the endpoints of which an episode is written down were last sent something with success, as far as that is recorded.
///
/// # Errors
/// MongoDB is unavailable. What it refuses is left out: it is found out by the next probe.
pub(super) async fn last_successes(
    store: &Store,
    documents: &[Document],
    now: DateTime,
) -> Result<HashMap<EndpointKey, DateTime>> {
    let noted = documents.iter().filter_map(Noted::read);
    let episodes = noted.filter_map(|(endpoint, noted)| Some((endpoint, noted.episode?)));
    let ids: HashMap<String, EndpointKey> = episodes
        .flat_map(|(endpoint, episode)| {
            let days = (0..=DAYS).map(move |day| episode.last.at.saturating_add_duration(DAY * day));
            let days = days.take_while(move |at| statistics::day(*at) <= now);
            days.map(move |at| (statistics::id(&endpoint, at), endpoint.clone()))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut successes = HashMap::new();
    let keys: Vec<_> = ids.keys().collect();
    for keys in keys.chunks(1000) {
        let filter = doc! { "_id": { "$in": keys }, "lastSuccess": { "$exists": true } };
        let figures = store.statistics();
        let found = async {
            let find = figures.find(filter).projection(doc! { "lastSuccess": 1 });
            find.await?.try_collect::<Vec<_>>().await
        };
        let found = match found.await.map_err(Error::from) {
            Err(error) if error.kind().is_general() => return Err(error),
            found => found.unwrap_or_default(),
        };
        for document in found {
            let endpoint = document.get_str("_id").ok().and_then(|id| ids.get(id));
            if let (Some(endpoint), Ok(at)) = (endpoint, document.get_datetime("lastSuccess")) {
                let latest = successes.entry(endpoint.clone()).or_insert(*at);
                *latest = (*latest).max(*at);
            }
        }
    }
    Ok(successes)
}
