//! Writing down the episodes of endpoints.

use std::collections::HashMap;

use bson::{RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use tracing::{info, warn};

use super::super::Engine;
use super::Keeper;
use super::write::{Change, commit, fitting, read};
use crate::model::{EndpointKey, Period};
use crate::notices::{Episode, Noted, PAST_SUSPENSIONS, Told, Unsaved, episode_id, of_episode};
use crate::store::{Result, Writer, extended};

impl Keeper {
    /// Writes down the episodes of these endpoints, and tells the platform of them. Returns the endpoints that did not fit into the
    /// transaction.
    ///
    /// # Errors
    /// Nothing was written, or it is not known whether that was.
    pub(super) async fn save(&self, endpoints: &[EndpointKey]) -> Result<Vec<EndpointKey>> {
        let engine = &self.engine;
        let unsaved = engine.episodes.unsaved_of(endpoints);
        let dead = self.count_dead_letters(&unsaved).await?;
        let mut transaction = engine.store.begin(Writer::Upkeep).await?;
        let ids = unsaved.iter().map(|one| episode_id(&one.endpoint)).collect();
        let found = read(&mut transaction, ids).await?;
        let mut noted: HashMap<_, _> = found.iter().filter_map(Noted::read).collect();
        let (now, terms) = (engine.clock.now(), self.terms());
        let (mut written, mut changes) = (Vec::new(), Vec::new());
        for unsaved in unsaved {
            let noted = noted.remove(&unsaved.endpoint);
            if noted.as_ref().map_or(0, |noted| noted.version) != unsaved.version {
                if let Some(written) = engine.episodes.reload(&unsaved.endpoint, noted) {
                    tell(engine, &written);
                }
                continue;
            }
            let ended = unsaved.ended_suspension(noted.as_ref(), now);
            let (endpoint, name) = (&unsaved.endpoint, engine.directory.name(&unsaved.endpoint));
            let dead = dead.get(endpoint).copied().unwrap_or(0);
            let notice = |told, episode| of_episode(endpoint, &name, told, episode, dead, &terms, now);
            let notices = unsaved.told.iter().map(|(told, episode)| notice(told, episode));
            changes.push(Change::new(
                episode_id(endpoint),
                update(&unsaved, ended)?,
                notices.collect(),
            ));
            written.push((unsaved, ended));
        }
        if changes.is_empty() {
            transaction.abort().await;
            return Ok(Vec::new());
        }
        let left = written.split_off(fitting(&changes));
        changes.truncate(written.len());
        commit(engine, transaction, changes).await?;
        self.saved(&written).await;
        Ok(left.into_iter().map(|(unsaved, _)| unsaved.endpoint).collect())
    }

    async fn saved(&self, written: &[(Unsaved, Option<Period>)]) {
        let engine = &self.engine;
        let mut ended = Vec::new();
        for (unsaved, suspended) in written {
            let is_news = engine.episodes.saved(unsaved, *suspended);
            if unsaved.episode.is_none() {
                ended.push(episode_id(&unsaved.endpoint));
            }
            if is_news {
                tell(engine, unsaved);
            }
        }
        if !ended.is_empty() {
            // An empty document that stays does no harm.
            let is_none = doc! { "$exists": false };
            let empty = doc! { "_id": { "$in": ended }, "episode": &is_none, "suspensions": is_none };
            let _ = engine.store.state().delete_many(empty).await;
        }
    }

    /// The dead letters that are kept of the endpoints that have recovered.
    async fn count_dead_letters(&self, unsaved: &[Unsaved]) -> Result<HashMap<EndpointKey, i64>> {
        let mut counts = HashMap::new();
        for unsaved in unsaved {
            if unsaved.told.iter().any(|(told, _)| *told == Told::Recovered) {
                let count = self.engine.outbox.dead_letters_of(&unsaved.endpoint).await?;
                counts.insert(unsaved.endpoint.clone(), i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        Ok(counts)
    }
}

/// What is written of an endpoint, and of its suspension where that has ended.
fn update(unsaved: &Unsaved, ended: Option<Period>) -> Result<RawArrayBuf> {
    let mut update = RawArrayBuf::new();
    update.push(match unsaved.document() {
        Some(episode) => {
            let episode = RawDocumentBuf::try_from(&episode).map_err(mongodb::error::Error::custom)?;
            rawdoc! { "$set": { "episode": { "$literal": episode } } }
        }
        None => rawdoc! { "$unset": "episode" },
    });
    if let Some((at, until)) = ended {
        let past = extended("suspensions", rawdoc! { "at": at, "until": until }, PAST_SUSPENSIONS);
        update.push(rawdoc! { "$set": { "suspensions": past } });
    }
    Ok(update)
}

/// The platform is told of this now.
pub(in crate::run) fn tell(engine: &Engine, written: &Unsaved) {
    for (told, episode) in &written.told {
        log(&written.endpoint, told, episode);
        if matches!(told, Told::Suspended(_)) {
            // It is probed by another rule from now on.
            engine.queue.forget(&written.endpoint);
        }
    }
}

fn log(endpoint: &EndpointKey, told: &Told, episode: &Episode) {
    let (organization, id) = (endpoint.organization(), endpoint.endpoint());
    let since = episode.since.try_to_rfc3339_string().unwrap_or_default();
    let (failures, reason) = (episode.failures, &episode.last.reason);
    match told {
        Told::Failing => warn!(
            organization,
            endpoint = id,
            since,
            failures,
            reason,
            "an endpoint is failing"
        ),
        Told::Suspended(suspension) if suspension.is_gone => warn!(
            organization,
            endpoint = id,
            "an endpoint is suspended after a 410: its deliveries wait, one is sent once an hour"
        ),
        Told::Suspended(_) => warn!(
            organization,
            endpoint = id,
            since,
            failures,
            reason,
            "an endpoint is suspended after nothing but failures: its deliveries wait, one is sent once an hour"
        ),
        Told::Recovered => info!(
            organization,
            endpoint = id,
            since,
            failures,
            "an endpoint has recovered"
        ),
    }
}
