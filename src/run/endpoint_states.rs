//! What is remembered of endpoints that are not plainly well, in `webhook_state` as `endpoint/KEY`: that their deliveries wait,
//! since when they are served again, and until when they are paused.
//!
//! The retry period of what waited begins anew when the endpoint is served again, whichever instance serves it then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::dispatch::EndpointState;
use crate::model::{Clock, EndpointKey};
use crate::outbox::state_id;
use crate::sender::Proxy;
use crate::store::{Result, Stopped, Store};

/// The states of endpoints, as far as this instance knows.
#[derive(Clone)]
pub struct EndpointStates {
    store: Store,
    clock: Clock,
    proxy: Proxy,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    states: Mutex<HashMap<EndpointKey, State>>,
    changed: Notify,
}

/// The state of one endpoint. One that is plainly well has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    is: Is,
    saved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// Its deliveries wait.
    Waiting,
    /// It is served again since then.
    ServedSince(DateTime),
}

impl EndpointStates {
    /// Nothing is known yet.
    pub fn new(store: Store, clock: Clock, proxy: Proxy) -> Self {
        Self {
            store,
            clock,
            proxy,
            shared: Arc::default(),
        }
    }

    /// Reads the documents of all endpoints that are not plainly well.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn read(&self) -> Result<Vec<Document>> {
        let now = self.clock.now();
        let filter = doc! { "_id": { "$gte": "endpoint/", "$lt": "endpoint0" } };
        let mut over = filter.clone();
        over.extend(doc! {
            "slowedUntil": { "$lt": now }, "waitingSince": { "$exists": false }, "servedSince": { "$exists": false },
            "deadUntold": { "$exists": false },
        });
        // Only tidies up.
        let _ = self.store.state().delete_many(over).await;
        Ok(self.store.state().find(filter).await?.try_collect().await?)
    }

    /// Takes over what they say. Returns which endpoints are paused, and for how long.
    pub fn load(&self, documents: &[Document]) -> Vec<(EndpointKey, Duration)> {
        let now = self.clock.now();
        let (mut states, mut paused) = (self.shared.states.lock(), Vec::new());
        for document in documents {
            let Some(key) = document.get_str("_id").ok().and_then(|id| id.strip_prefix("endpoint/")) else {
                continue;
            };
            let endpoint = EndpointKey::from_stored(key);
            if let Some(pause) = document
                .get_datetime("slowedUntil")
                .ok()
                .and_then(|until| left(now, *until))
            {
                paused.push((endpoint.clone(), pause));
            }
            let is = match document.get_datetime("servedSince") {
                Ok(at) => Is::ServedSince(*at),
                Err(_) if document.contains_key("waitingSince") => Is::Waiting,
                Err(_) => continue,
            };
            // What this instance has not saved yet is news.
            if states.get(&endpoint).is_none_or(|state| state.saved) {
                states.insert(endpoint, State { is, saved: true });
            }
        }
        paused
    }

    /// Notes that deliveries of that endpoint wait, or, if they had to, that their retry period begins now. Returns whether it does.
    pub fn note(&self, endpoint: &EndpointKey, state: &EndpointState) -> bool {
        let waited = || {
            let states = self.shared.states.lock();
            states.get(endpoint).is_some_and(|state| state.is == Is::Waiting)
        };
        let is_released = *state == EndpointState::Served && waited();
        match state {
            EndpointState::OutOfService | EndpointState::Held | EndpointState::Suspended { .. } => {
                self.set(endpoint, Is::Waiting)
            }
            EndpointState::Served if is_released => self.set(endpoint, Is::ServedSince(self.clock.now())),
            EndpointState::Served
            | EndpointState::ProxyUnavailable
            | EndpointState::Off(_)
            | EndpointState::NotAssigned => {}
        }
        is_released
    }

    /// Since when the endpoint is served again, as far as its deliveries had to wait, be it for the proxy.
    pub fn served_since(&self, endpoint: &EndpointKey) -> Option<DateTime> {
        let back_for = self.proxy.back_for();
        let proxy_back = back_for.map(|back_for| earlier(self.clock.now(), back_for));
        self.own_served_since(endpoint).max(proxy_back)
    }

    /// Since when the endpoint itself is served again; `None` if its deliveries never had to wait for it.
    pub(super) fn own_served_since(&self, endpoint: &EndpointKey) -> Option<DateTime> {
        match self.shared.states.lock().get(endpoint)?.is {
            Is::ServedSince(at) => Some(at),
            Is::Waiting => None,
        }
    }

    fn set(&self, endpoint: &EndpointKey, is: Is) {
        let mut states = self.shared.states.lock();
        if states.get(endpoint).is_none_or(|state| state.is != is) {
            states.insert(endpoint.clone(), State { is, saved: false });
            self.shared.changed.notify_one();
        }
    }

    /// Saves changes until `stop`.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable.
    pub async fn run(self, stop: CancellationToken) -> std::result::Result<(), Stopped> {
        while stop.run_until_cancelled(self.shared.changed.notified()).await.is_some() {
            for (endpoint, state) in self.unsaved() {
                self.store
                    .persist("save the state of an endpoint", || self.save(&endpoint, state.is))
                    .await?;
                if let Some(now) = self.shared.states.lock().get_mut(&endpoint) {
                    now.saved = now.is == state.is;
                }
            }
        }
        Ok(())
    }

    fn unsaved(&self) -> Vec<(EndpointKey, State)> {
        let states = self.shared.states.lock();
        let unsaved = states.iter().filter(|(_, state)| !state.saved);
        unsaved.map(|(endpoint, state)| (endpoint.clone(), *state)).collect()
    }

    async fn save(&self, endpoint: &EndpointKey, is: Is) -> Result<()> {
        let update = match is {
            Is::Waiting => doc! { "$set": { "waitingSince": self.clock.now() }, "$unset": { "servedSince": 1 } },
            Is::ServedSince(at) => doc! { "$set": { "servedSince": at }, "$unset": { "waitingSince": 1 } },
        };
        let state = self.store.state();
        let save = state.update_one(doc! { "_id": state_id(endpoint) }, update);
        save.upsert(true).await?;
        Ok(())
    }
}

fn earlier(instant: DateTime, by: Duration) -> DateTime {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    DateTime::from_millis(instant.timestamp_millis().saturating_sub(by))
}

/// How long it is until then.
fn left(now: DateTime, until: DateTime) -> Option<Duration> {
    let millis = until.timestamp_millis().saturating_sub(now.timestamp_millis());
    u64::try_from(millis)
        .ok()
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
}
