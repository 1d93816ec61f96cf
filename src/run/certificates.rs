//! Telling of endpoints' own certificates that end: the operator in the log of each instance, the platform once, by the instance that holds
//! the lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, Document, doc, rawdoc};
use futures_util::{TryStreamExt, future};
use mongodb::options::FindOptions;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Engine;
use crate::failpoint;
use crate::model::{EndpointKey, time_until};
use crate::notices::{ToldCertificates, all_told_certificates, of_certificates, told_certificates_id};
use crate::platform::Tls;
use crate::store::{Pauses, Result, STATE, Writer, upsert_row};

/// How often certificates that end are looked for, besides after changes of endpoints.
const LOOK: Duration = Duration::from_secs(3600);

/// How long changes of endpoints are collected before certificates are looked for.
const BURST: Duration = Duration::from_secs(1);

/// The platform is told of an endpoint's certificates this often, at most.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// Endpoints per transaction. A rest as long as the transaction took follows it.
const STEP: usize = 50;

/// What MongoDB refused is tried again after this time at the earliest.
const AGAIN: Duration = Duration::from_secs(60);

/// A round ends when MongoDB has refused this many endpoints.
const MOST_REFUSED: usize = 10;

/// The endpoints some of whose certificates end.
type Ending = HashMap<EndpointKey, Arc<Tls>>;

/// Tells of certificates until `stop`.
pub(super) async fn tell_of_certificates(engine: Arc<Engine>, stop: CancellationToken) {
    let (mut changes, mut lease) = (engine.directory.subscribe(), engine.cluster.lease());
    let mut reporter = engine.store.outage().reporter();
    let mut warned = HashMap::new();
    let mut notifier = Notifier::new(engine);
    loop {
        changes.mark_unchanged();
        lease.mark_unchanged();
        let now = notifier.engine.clock.now();
        let ending = notifier.engine.directory.ending(now);
        warned = warn_of(&ending, &warned, now);
        let began = Instant::now();
        let next = notifier.run_once(&ending, &stop).await;
        reporter.ended("tell the platform of certificates that end", began, &next);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.changed() => {}
            _ = lease.changed() => {}
            () = tokio::time::sleep(next.unwrap_or_default()) => {}
        }
        // A burst of changes is one.
        if stop.run_until_cancelled(tokio::time::sleep(BURST)).await.is_none() {
            return;
        }
    }
}

/// Logs one WARN for each endpoint when certificates that end are first seen of it. Returns the certificates of each.
fn warn_of(ending: &Ending, warned: &HashMap<EndpointKey, Vec<i64>>, now: DateTime) -> HashMap<EndpointKey, Vec<i64>> {
    let certificates = |(key, tls): (&EndpointKey, &Arc<Tls>)| {
        let certificates: Vec<_> = tls.ending(now).map(|end| end.fingerprint).collect();
        let before = warned.get(key).map_or(&[][..], Vec::as_slice);
        if certificates.iter().any(|one| !before.contains(one)) {
            let (organization, endpoint) = (key.organization(), key.endpoint());
            let reason = tls.warnings(now).join("; ");
            warn!(organization, endpoint, %reason, "the configuration of an endpoint needs attention");
        }
        (key.clone(), certificates)
    };
    ending.iter().map(certificates).collect()
}

/// Tells the platform.
struct Notifier {
    engine: Arc<Engine>,
    /// What it was told, by the told documents. `None`: they must be read.
    told: Option<HashMap<EndpointKey, ToldCertificates>>,
    /// Endpoints of which MongoDB refuses something.
    refused: Pauses<EndpointKey>,
    every: Duration,
}

impl Notifier {
    fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            told: None,
            refused: Pauses::default(),
            every: failpoint::limit("certificate-notices", TELL_EVERY),
        }
    }

    /// Tells of what the platform was not told of yet. Returns how long until the next look.
    async fn run_once(&mut self, ending: &Ending, stop: &CancellationToken) -> Result<Duration> {
        let engine = Arc::clone(&self.engine);
        let lease = engine.cluster.lease();
        let number = *lease.borrow();
        if number.is_none() {
            // From now on another instance writes.
            self.told = None;
        }
        if number.is_none() || !engine.directory.tells_of_endpoints() {
            return Ok(LOOK);
        }
        if self.told.is_none() {
            self.told = Some(self.read().await?);
        }
        self.forget_deleted().await;
        let due = self.due(ending, engine.clock.now());
        let mut refusals = 0;
        for step in due.chunks(STEP) {
            if stop.is_cancelled() || *lease.borrow() != number || refusals >= MOST_REFUSED {
                break;
            }
            let began = Instant::now();
            refusals += self.step(step, began).await.inspect_err(|_| self.told = None)?;
            stop.run_until_cancelled(tokio::time::sleep(began.elapsed())).await;
        }
        Ok(self.next(ending, engine.clock.now()))
    }

    async fn read(&self) -> Result<HashMap<EndpointKey, ToldCertificates>> {
        let found = self.engine.store.state().find(all_told_certificates()).await?;
        let told = found.try_filter_map(|document| future::ok(ToldCertificates::read(&document)));
        Ok(told.try_collect().await?)
    }

    /// Removes the told documents of endpoints that are configured no more. Only tidies up.
    async fn forget_deleted(&mut self) {
        let engine = &self.engine;
        let Some(told) = &mut self.told else { return };
        let deleted: Vec<_> = told
            .keys()
            .filter(|key| !engine.directory.knows(key))
            .cloned()
            .collect();
        for keys in deleted.chunks(1000) {
            let ids: Vec<_> = keys.iter().map(told_certificates_id).collect();
            let state = engine.store.state();
            if state.delete_many(doc! { "_id": { "$in": ids } }).await.is_ok() {
                keys.iter().for_each(|key| drop(told.remove(key)));
            }
        }
    }

    /// When the platform may be told something of that endpoint that it was not told yet.
    fn may_tell_at(&self, key: &EndpointKey, tls: &Tls, now: DateTime) -> Option<DateTime> {
        let told = self.told.as_ref()?.get(key);
        let is_untold = told.is_none_or(|told| !told.untold(tls, now).is_empty());
        is_untold.then(|| told.map_or(now, |told| told.next(self.every, now)))
    }

    fn due(&self, ending: &Ending, now: DateTime) -> Vec<(EndpointKey, Arc<Tls>)> {
        let began = Instant::now();
        let is_due = |key: &EndpointKey, tls: &Tls| {
            self.may_tell_at(key, tls, now).is_some_and(|at| at <= now) && !self.refused.has(key, began)
        };
        let due = ending.iter().filter(|(key, tls)| is_due(key, tls));
        due.map(|(key, tls)| (key.clone(), Arc::clone(tls))).collect()
    }

    fn next(&self, ending: &Ending, now: DateTime) -> Duration {
        let at = ending.iter().filter_map(|(key, tls)| self.may_tell_at(key, tls, now));
        let next = at.filter(|at| *at > now).min();
        let again = if self.refused.is_empty() { LOOK } else { AGAIN };
        next.map_or(again, |next| time_until(next, now).min(again))
    }

    /// Tells of some endpoints, one by one where MongoDB refuses them together. Returns how many are refused.
    async fn step(&mut self, endpoints: &[(EndpointKey, Arc<Tls>)], began: Instant) -> Result<usize> {
        let (mut refusals, mut left) = (0, vec![endpoints]);
        while let Some(endpoints) = left.pop().filter(|_| refusals < MOST_REFUSED) {
            match (self.append(endpoints).await, endpoints) {
                (Ok(()), _) => endpoints.iter().for_each(|(key, _)| self.refused.accepted(key)),
                (Err(error), _) if !error.kind().is_of_content() => return Err(error),
                (Err(error), [(key, _)]) => {
                    refusals += 1;
                    let pause = self.refused.refused(key.clone(), began).as_secs();
                    error!(endpoint = %key, %error, "MongoDB refuses to write down that an endpoint's certificates end, and the notice of it: tried again in {pause} s");
                }
                (Err(_), several) => left.extend(several.chunks(1)),
            }
        }
        Ok(refusals)
    }

    /// Tells of these endpoints and notes that, in one transaction.
    async fn append(&mut self, endpoints: &[(EndpointKey, Arc<Tls>)]) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        let mut transaction = engine.store.begin(Writer::Upkeep).await?;
        let ids: Vec<_> = endpoints.iter().map(|(key, _)| told_certificates_id(key)).collect();
        let filter = doc! { "_id": { "$in": ids } };
        let found = transaction.find(STATE, filter, FindOptions::default()).await?;
        let found = found.iter().filter_map(|found| Document::try_from(found).ok());
        let mut told: HashMap<_, _> = found.filter_map(|found| ToldCertificates::read(&found)).collect();
        let now = engine.clock.now();
        let (mut rows, mut notices) = (Vec::new(), Vec::new());
        for (key, tls) in endpoints {
            let told = told.entry(key.clone()).or_default();
            let untold = told.untold(tls, now);
            if !untold.is_empty() {
                notices.push(of_certificates(key, &engine.directory.name(key), &untold, now));
                rows.push(upsert_row(
                    rawdoc! { "_id": told_certificates_id(key) },
                    told.tell(&untold, now),
                ));
            }
        }
        transaction.update(STATE, rows.iter()).await?;
        let append = engine
            .outbox
            .append_in_transaction(&mut transaction, notices, usize::MAX, now);
        let appended = append.await?;
        failpoint::reach("certificates-to-be-committed");
        transaction.commit().await?;
        failpoint::reach("certificates-committed");
        engine.outbox.announce(appended);
        self.told.get_or_insert_default().extend(told);
        Ok(())
    }
}
