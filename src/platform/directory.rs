//! Which endpoints want which events: those of all organizations in memory, kept up to date by a change stream.

mod claims;
mod document_id;
mod freshness;
mod full_reads;
mod index;
mod read;
mod refresh;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::DateTime;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::{Mutex, SetOnce, watch};
use tokio::time::Instant;
use tracing::warn;

use super::{Endpoint, MemberConfig, Tls};
use crate::model::{EndpointKey, EventType};
use crate::store::Stopped;
use claims::Claims;
use freshness::Freshness;
use index::{Doubles, Index, LostDocument};

pub use document_id::DocumentId;
pub use refresh::Refresh;

/// How often who waits for the directory shows that it is alive.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The endpoints of all organizations.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    index: RwLock<Index>,
    followed: SetOnce<()>,
    freshness: Freshness,
    email: AtomicBool,
    /// Where the platform is told of endpoints, as an endpoint.
    notices: RwLock<Option<Arc<Endpoint>>>,
    changes: watch::Sender<u64>,
    /// Locked from reading documents until they are in `index`: an earlier reading must not replace a later one.
    reading: Mutex<()>,
}

/// How many endpoints are configured, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Switched on, and in a document that makes sense.
    pub served: usize,
    /// Switched off.
    pub off: usize,
    /// In a document that makes no sense.
    pub out_of_service: usize,
}

/// What the directory knows of an endpoint.
#[derive(Clone, Debug)]
pub enum Found {
    /// Sent to.
    Served(Arc<Endpoint>),
    /// What waits for it is cancelled.
    Off {
        /// `the endpoint was disabled` or `the endpoint was deleted`.
        reason: &'static str,
    },
    /// What waits for it goes on waiting: it makes no sense, or its organization's document is missing or can't be read.
    OutOfService {
        /// Why, in one line.
        reason: String,
    },
    /// Not an endpoint but e-mails to users, switched on or off.
    Email {
        /// Whether they are on.
        enabled: bool,
    },
}

impl Directory {
    /// Switches reminders by e-mail on or off: they want each expiry, of every organization.
    pub fn switch_email(&self, on: bool) {
        if self.0.email.swap(on, Ordering::Relaxed) != on {
            self.notify();
        }
    }

    /// From now on the platform is told of endpoints there, or not at all.
    pub fn set_notices(&self, endpoint: Option<Arc<Endpoint>>) {
        *self.0.notices.write() = endpoint;
        self.notify();
    }

    /// Whether the platform is told of endpoints.
    pub fn tells_of_endpoints(&self) -> bool {
        self.0.notices.read().is_some()
    }

    /// Changes with an endpoint's configuration; `None` if no document has it now.
    pub fn fingerprint(&self, key: &EndpointKey) -> Option<u64> {
        self.index().claims(key)?.fingerprint()
    }

    /// Whether reminders by e-mail are on.
    pub fn email(&self) -> bool {
        self.0.email.load(Ordering::Relaxed)
    }

    /// The endpoints of an organization that get events of this type, each once: those that are subscribed and served or out of
    /// service; and the e-mails.
    pub fn wanting(&self, organization: &str, event_type: EventType) -> Vec<EndpointKey> {
        self.0.freshness.used();
        let index = self.index();
        let email = self.email() && event_type == EventType::CertificateExpired;
        let wanting = index.wanting(organization, event_type).cloned();
        wanting.chain(email.then(EndpointKey::email)).collect()
    }

    /// The endpoint as it is configured now. One of an organization that was never seen counts as out of service for the next
    /// 10 minutes: its document may be on its way.
    pub fn find(&self, key: &EndpointKey) -> Found {
        if key.is_email() {
            return Found::Email { enabled: self.email() };
        }
        if key.is_own() {
            let notices = self.0.notices.read().clone();
            let off = Found::Off {
                reason: "notices are switched off",
            };
            return notices.map_or(off, Found::Served);
        }
        self.0.freshness.used();
        let now = Instant::now();
        if let Some(found) = self.index().find(key, now) {
            return found;
        }
        let mut index = self.0.index.write();
        index.miss(key.organization(), now);
        index.find(key, now).unwrap_or(Found::Off {
            reason: claims::DELETED,
        })
    }

    /// Whether some document has or had the endpoint.
    pub fn knows(&self, key: &EndpointKey) -> bool {
        self.index().claims(key).is_some()
    }

    /// Notified whenever anything has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Whether a document of the organization is there.
    pub fn knows_organization(&self, organization: &str) -> bool {
        self.index().knows(organization)
    }

    /// How many endpoints there are.
    pub fn count(&self) -> EndpointCounts {
        self.index().count()
    }

    /// The endpoint if it makes sense, on or off.
    pub fn endpoint(&self, key: &EndpointKey) -> Option<Arc<Endpoint>> {
        self.index().claims(key)?.endpoint().cloned()
    }

    /// Every endpoint that makes sense, on or off.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let index = self.index();
        index
            .endpoints()
            .filter_map(|(_, claims)| claims.endpoint().cloned())
            .collect()
    }

    /// The keys of all endpoints, of those that are out of service too. Sorted.
    pub fn keys(&self) -> Vec<EndpointKey> {
        let mut keys: Vec<_> = self.index().endpoints().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys
    }

    /// Those that no organization has configured, as far as they are on: e-mails and notices.
    pub fn own(&self) -> impl Iterator<Item = EndpointKey> {
        let email = self.email().then(EndpointKey::email);
        let notices = self.tells_of_endpoints().then(EndpointKey::notices);
        email.into_iter().chain(notices)
    }

    /// The key of the only endpoint with that id, which is an ObjectId as a rule; those of e-mails and notices while they are on.
    ///
    /// # Errors
    /// There is none, or there are several: how to name the one that is meant.
    pub fn key_of(&self, id: &str) -> Result<EndpointKey, String> {
        let mut keys = self.keys();
        keys.extend(self.own());
        keys.retain(|key| key.endpoint() == id);
        match keys.as_slice() {
            [key] => Ok(key.clone()),
            [] => Err(format!(
                "no endpoint {id} is configured: name one that was deleted as ORGANIZATION/{id}"
            )),
            _ => Err(format!(
                "several organizations have an endpoint {id}: name it as ORGANIZATION/{id}"
            )),
        }
    }

    /// What people call the endpoint; nothing if that is not known. Text from outside.
    pub fn name(&self, key: &EndpointKey) -> String {
        if key.is_email() {
            return "reminders to users".into();
        }
        if key.is_own() {
            return "notices to the platform".into();
        }
        let index = self.index();
        index
            .claims(key)
            .map_or_else(String::new, |claims| claims.name().to_owned())
    }

    /// What of the endpoint's configuration needs attention at `now`: see [`MemberConfig::warnings`], and its certificates that end.
    pub fn warnings(&self, key: &EndpointKey, now: DateTime) -> Vec<String> {
        let index = self.index();
        let claims = index.claims(key);
        let ends = claims.and_then(Claims::tls).map(|tls| tls.warnings(now));
        let others = claims.map_or(&[][..], Claims::warnings).iter().cloned();
        others.chain(ends.into_iter().flatten()).collect()
    }

    /// The certificates of endpoints of which some have ended at `now` or will soon.
    pub fn ending(&self, now: DateTime) -> HashMap<EndpointKey, Arc<Tls>> {
        let index = self.index();
        let tls = index.endpoints().filter_map(|(key, claims)| Some((key, claims.tls()?)));
        tls.filter(|(_, tls)| tls.ending(now).next().is_some())
            .map(|(key, tls)| (key.clone(), Arc::clone(tls)))
            .collect()
    }

    /// Waits until changes are followed: from then on each takes effect by itself.
    pub async fn followed(&self) {
        self.0.followed.wait().await;
    }

    /// Waits until all changes are in effect that were made more than one and a half seconds ago: a source that finds something after an outage,
    /// or after a rest in which nobody asked for changes, must not go by the endpoints of before. `progress` is called now and then meanwhile.
    ///
    /// # Errors
    /// [`Stopped`] when `stop` comes first.
    pub async fn up_to_date(&self, stop: impl Future<Output = ()>, progress: impl Fn()) -> Result<(), Stopped> {
        // Pinned: it reckons from when it began.
        let fresh = self.0.freshness.wait();
        tokio::pin!(stop, fresh);
        loop {
            tokio::select! {
                () = &mut stop => return Err(Stopped),
                () = &mut fresh => return Ok(()),
                () = tokio::time::sleep(REPORT_EVERY) => progress(),
            }
        }
    }

    /// Replaces all: each document by its id. A document that isn't among them any more is missing from now on.
    pub fn replace<I: Into<DocumentId>>(&self, configs: Vec<(I, MemberConfig)>) {
        let mut ids = HashSet::new();
        for (id, config) in configs {
            let id = id.into();
            self.put(&id, config);
            ids.insert(id);
        }
        let known = self.index().documents();
        let absent = known.iter().filter(|id| !ids.contains(id));
        let lost = absent
            .filter_map(|id| self.remove(id))
            .filter(|lost| lost.endpoints > 0);
        let documents = lost.count();
        if documents > 0 {
            warn!(
                documents,
                "configuration documents are missing: their endpoints are out of service, and count as deleted after 10 minutes"
            );
        }
    }

    /// Replaces what one document says.
    fn put(&self, id: &DocumentId, config: MemberConfig) {
        let doubles = {
            let mut index = self.0.index.write();
            let doubles = index.put(id, config, Instant::now());
            self.notify_if(index.changed());
            doubles
        };
        doubles.iter().for_each(warn_of);
    }

    /// One document is not there any more. Returns what it was, if it was there.
    fn remove(&self, id: &DocumentId) -> Option<LostDocument> {
        let mut index = self.0.index.write();
        let removed = index.remove(id, Instant::now());
        self.notify_if(index.changed());
        removed
    }

    /// What has been missing for 10 minutes counts as deleted.
    fn expire(&self) {
        drop(self.index());
    }

    /// The index as it is now.
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        let index = self.0.index.read();
        if index.next_expiry().is_none_or(|at| Instant::now() < at) {
            return index;
        }
        drop(index);
        let mut index = self.0.index.write();
        index.expire(Instant::now());
        self.notify_if(index.changed());
        drop(index);
        self.0.index.read()
    }

    fn notify_if(&self, changed: bool) {
        if changed {
            self.notify();
        }
    }

    fn notify(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }
}

/// One WARN for each pair of documents, when it is first seen.
fn warn_of(doubles: &Doubles) {
    warn!(
        organization = doubles.endpoint.organization(),
        endpoint = doubles.endpoint.endpoint(),
        endpoints = doubles.count,
        document = %doubles.counts,
        ignored = %doubles.ignored,
        "an endpoint is in two documents of its organization: the one with the lower _id counts"
    );
}
