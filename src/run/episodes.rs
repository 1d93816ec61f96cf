//! Writing down what is remembered of endpoints that fail, each change in one transaction with what the platform is told of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, Document, RawDocumentBuf, cstr, doc, rawdoc};
use mongodb::options::FindOptions;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Engine;
use crate::dispatch::EndpointState;
use crate::failpoint;
use crate::model::{EndpointKey, Period};
use crate::notices::{
    Dead, Episode, Noted, PAST_SUSPENSIONS, Terms, Told, Unsaved, Untold, episode_id, of_dead_letters, of_episode,
};
use crate::outbox::{NewDelivery, later, state_id};
use crate::store::{Kind, Pauses, Result, STATE, Transaction, Writer, upsert_row};

/// Rounds begin this far apart, however much changes.
const EVERY: Duration = Duration::from_secs(1);

/// The platform is told of an endpoint's dead letters this often, at most.
const DEAD_EVERY: Duration = Duration::from_secs(3600);

/// While some endpoint fails, whether connections can be made at all is checked at least this often.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Writes until `stop`.
pub(super) async fn keep(engine: Arc<Engine>, stop: CancellationToken) {
    let mut keeper = Keeper::new(engine);
    let mut reporter = keeper.engine.store.outage().reporter();
    let mut directory = keeper.engine.directory.subscribe();
    let every = failpoint::limit("episodes", EVERY);
    while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        let next = keeper.next();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(next) => {}
            () = keeper.engine.episodes.changed().notified() => {}
            endpoint = keeper.engine.died.next() => keeper.engine.died.add(endpoint),
            _ = directory.changed() => {}
        }
        // Each round: documents change while another instance has the endpoint, and while an attempt is on its way.
        keeper.follow_documents();
        let began = Instant::now();
        match keeper.run_once(began).await {
            Ok(()) => reporter.succeeded(),
            Err(error) => reporter.failed("write down which endpoints fail", &error, began),
        }
    }
}

struct Keeper {
    engine: Arc<Engine>,
    /// When the platform may be told of dead letters.
    dead: HashMap<EndpointKey, DateTime>,
    /// Endpoints whose documents MongoDB refuses to change.
    refused: Pauses<EndpointKey>,
    dead_every: Duration,
}

impl Keeper {
    fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            dead: HashMap::new(),
            refused: Pauses::default(),
            dead_every: failpoint::limit("dead-notices", DEAD_EVERY),
        }
    }

    /// The next round begins after this time at the latest.
    fn next(&self) -> Duration {
        let engine = &self.engine;
        let now = engine.clock.now();
        let dead = self.dead.values().min().copied();
        let next = engine.episodes.tick(now).into_iter().chain(dead).min();
        let millis = next.map(|next| next.timestamp_millis() - now.timestamp_millis());
        let millis = millis.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
        let is_idle = engine.episodes.is_empty() && millis.is_none();
        let longest = if is_idle { Duration::MAX } else { CHECK_EVERY };
        millis.unwrap_or(longest).min(longest)
    }

    /// Ends the suspensions of endpoints whose document has changed.
    fn follow_documents(&self) {
        let engine = &self.engine;
        let is_off = |endpoint: &EndpointKey| matches!(engine.endpoint_state(endpoint), EndpointState::Off(_));
        let fingerprint = |endpoint: &EndpointKey| engine.directory.fingerprint(endpoint);
        engine.episodes.follow(is_off, fingerprint, engine.clock.now());
    }

    async fn run_once(&mut self, began: Instant) -> Result<()> {
        let (engine, now) = (Arc::clone(&self.engine), self.engine.clock.now());
        match engine.episodes.cut_off_changed() {
            Some(true) => error!(
                "no connection can be made to nine of ten organizations: the fault is on this side; deliveries are retried, no endpoint is suspended and nobody is told"
            ),
            Some(false) => info!("connections to organizations can be made again"),
            None => {}
        }
        engine.episodes.tick(now);
        for unsaved in engine.episodes.unsaved(|endpoint| engine.cluster.is_assigned(endpoint)) {
            if !self.refused.has(&unsaved.endpoint, began) {
                let saved = self.save(&unsaved).await;
                self.note_result(&unsaved.endpoint, saved, began)?;
            }
        }
        for endpoint in engine.died.take() {
            self.dead.entry(endpoint).or_insert(now);
        }
        let due = self.dead.iter().filter(|(_, due)| **due <= now);
        let due: Vec<_> = due.map(|(endpoint, _)| endpoint.clone()).collect();
        for endpoint in due.into_iter().filter(|endpoint| engine.cluster.is_assigned(endpoint)) {
            if !self.refused.has(&endpoint, began) {
                let told = self.tell_of_dead_letters(&endpoint).await;
                self.note_result(&endpoint, told, began)?;
            }
        }
        self.dead.retain(|endpoint, _| engine.cluster.is_assigned(endpoint));
        Ok(())
    }

    /// # Errors
    /// The error itself where it is not the endpoint's own.
    fn note_result(&mut self, endpoint: &EndpointKey, done: Result<()>, began: Instant) -> Result<()> {
        match done {
            Ok(()) => self.refused.accepted(endpoint),
            Err(error) if error.kind() == Kind::Unavailable => return Err(error),
            // Somebody else has written: the next round reads it again.
            Err(error) if error.kind() == Kind::Conflict => {}
            Err(error) => {
                let pause = self.refused.refused(endpoint.clone(), began).as_secs();
                error!(%endpoint, %error, "MongoDB refuses to write down that an endpoint fails or to tell the platform: this instance remembers it, tried again in {pause} s");
            }
        }
        Ok(())
    }

    async fn save(&self, unsaved: &Unsaved) -> Result<()> {
        let (engine, endpoint) = (&self.engine, &unsaved.endpoint);
        let dead = match unsaved.told.iter().any(|(told, _)| *told == Told::Recovered) {
            true => count_dead_letters(engine, endpoint).await?,
            false => 0,
        };
        let mut transaction = engine.store.begin(Writer::Upkeep).await?;
        let found = read(engine, &mut transaction, &episode_id(endpoint)).await?;
        let noted = found.and_then(|found| Noted::read(&found)).map(|(_, noted)| noted);
        if noted.as_ref().map_or(0, |noted| noted.version) != unsaved.version {
            transaction.abort().await;
            engine.episodes.reload(endpoint, noted);
            return Ok(());
        }
        let (now, terms) = (engine.clock.now(), self.terms());
        let ended = unsaved.ended_suspension(noted.as_ref(), now);
        let update = update(unsaved, ended)?;
        let name = engine.directory.name(endpoint);
        let notices = unsaved
            .told
            .iter()
            .map(|(told, episode)| of_episode(endpoint, name.clone(), told, episode, dead, &terms, now));
        let id = episode_id(endpoint);
        self.commit(transaction, &id, update, notices.collect()).await?;
        engine.episodes.saved(unsaved, ended);
        if unsaved.episode.is_none() {
            // An empty document that stays does no harm.
            let ended = doc! { "_id": id, "episode": { "$exists": false }, "suspensions": { "$exists": false } };
            let _ = engine.store.state().delete_one(ended).await;
        }
        for (told, episode) in &unsaved.told {
            log(endpoint, told, episode);
        }
        let is_suspended = |told: &Told| matches!(told, Told::Suspended(_));
        if unsaved.told.iter().any(|(told, _)| is_suspended(told)) {
            // It is probed by another rule from now on.
            engine.queue.forget(endpoint);
        }
        engine.waiting.look_now();
        Ok(())
    }

    /// Tells the platform of the endpoint's dead letters, unless it was told of others within [`DEAD_EVERY`]: then later.
    async fn tell_of_dead_letters(&mut self, endpoint: &EndpointKey) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        let last = engine.outbox.last_dead_letter(endpoint).await?;
        let mut transaction = engine.store.begin(Writer::Upkeep).await?;
        let (id, now) = (state_id(endpoint), engine.clock.now());
        let found = read(&engine, &mut transaction, &id).await?;
        let Untold { dead: untold, told_at } = found.as_ref().map(Untold::read).unwrap_or_default();
        let allowed = told_at.map(|at| later(at, self.dead_every));
        if untold == 0 || allowed.is_some_and(|at| at > now) {
            transaction.abort().await;
            match allowed.filter(|_| untold > 0) {
                Some(at) => drop(self.dead.insert(endpoint.clone(), at)),
                None => drop(self.dead.remove(endpoint)),
            }
            return Ok(());
        }
        let dead = Dead {
            count: untold,
            last: last.unwrap_or_default(),
        };
        let notice = of_dead_letters(endpoint, engine.directory.name(endpoint), &dead, &self.terms(), now);
        let update = rawdoc! { "$set": { "deadToldAt": now }, "$unset": { "deadUntold": 1 } };
        self.commit(transaction, &id, update, vec![notice]).await?;
        self.dead.remove(endpoint);
        Ok(())
    }

    /// Changes a document of `webhook_state` and appends the notices, in one transaction.
    async fn commit(
        &self,
        mut transaction: Transaction,
        id: &str,
        update: RawDocumentBuf,
        notices: Vec<NewDelivery>,
    ) -> Result<()> {
        let engine = &self.engine;
        let row = upsert_row(rawdoc! { "_id": id }, update);
        transaction.update(STATE, [row].iter()).await?;
        let (are_told, now) = (engine.directory.tells_of_endpoints(), engine.clock.now());
        let notices = if are_told { notices } else { Vec::new() };
        let appended = engine
            .outbox
            .append_in_transaction(&mut transaction, notices, usize::MAX, now)
            .await?;
        failpoint::reach("episode-to-be-committed");
        transaction.commit().await?;
        failpoint::reach("episode-committed");
        engine.outbox.announce(appended);
        Ok(())
    }

    fn terms(&self) -> Terms {
        let settings = &self.engine.settings;
        Terms {
            suspend_after: settings.config.get().delivery.suspend_after,
            redrive_for: *settings.redrive_for.get(),
            probe_every: self.engine.episodes.probe_every(),
        }
    }
}

/// What is written of an endpoint, and of its suspension where that has ended.
fn update(unsaved: &Unsaved, ended: Option<Period>) -> Result<RawDocumentBuf> {
    let mut update = match unsaved.document() {
        Some(episode) => rawdoc! { "$set": { "episode": raw(&episode)? } },
        None => rawdoc! { "$unset": { "episode": 1 } },
    };
    if let Some((at, until)) = ended {
        let past = rawdoc! { "$each": [{ "at": at, "until": until }], "$slice": -PAST_SUSPENSIONS };
        update.append(cstr!("$push"), rawdoc! { "suspensions": past });
    }
    Ok(update)
}

async fn read(engine: &Engine, transaction: &mut Transaction, id: &str) -> Result<Option<Document>> {
    let state = engine.store.database().collection(STATE);
    let found = transaction.find(&state, doc! { "_id": id }, FindOptions::default(), |_| true);
    let found = found.await?;
    Ok(found.first().and_then(|found| Document::try_from(found).ok()))
}

fn raw(document: &Document) -> Result<RawDocumentBuf> {
    Ok(RawDocumentBuf::try_from(document).map_err(mongodb::error::Error::custom)?)
}

async fn count_dead_letters(engine: &Engine, endpoint: &EndpointKey) -> Result<i64> {
    let counted = engine.outbox.dead_letters_of(endpoint).await;
    counted.map(|count| i64::try_from(count).unwrap_or(i64::MAX))
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
            "an endpoint is suspended after a 410: its deliveries wait, one is tried once an hour"
        ),
        Told::Suspended(_) => warn!(
            organization,
            endpoint = id,
            since,
            failures,
            reason,
            "an endpoint is suspended after nothing but failures: its deliveries wait, one is tried once an hour"
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
