//! What is remembered of endpoints whose deliveries wait or had to, in their state documents (`endpoint/KEY` of `webhook_state`): that they wait,
//! since when they are served again, and until when they are paused.
//!
//! The retry period of what waited begins anew when the endpoint is served again, whichever instance serves it then.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, Document, RawDocumentBuf, doc, rawdoc};
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::episodes::DEAD_EVERY;
use crate::dispatch::EndpointState;
use crate::model::{Clock, EndpointKey, earlier, time_until};
use crate::outbox::{all_states, endpoint_of_state, state_id};
use crate::platform::{Directory, Found};
use crate::sender::Proxy;
use crate::store::{Error, LEASE, Pauses, Result, STATE, Stopped, Store, upsert_row};

/// What MongoDB refuses is looked at again this often: see [`Pauses`].
const AGAIN: Duration = Duration::from_secs(60);

/// The states of endpoints, as far as this instance knows.
#[derive(Clone)]
pub struct EndpointStates {
    store: Store,
    clock: Clock,
    proxy: Proxy,
    directory: Directory,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    states: HashMap<EndpointKey, State>,
    /// Those of them that must be written.
    unsaved: BTreeSet<EndpointKey>,
}

/// The state of one endpoint whose deliveries wait, or had to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its deliveries wait.
    Waiting,
    /// It is served again since then.
    ServedSince(DateTime),
    /// It is off, and what waited is cancelled.
    Off,
}

impl EndpointStates {
    /// Nothing is known yet.
    pub fn new(store: Store, clock: Clock, proxy: Proxy, directory: Directory) -> Self {
        Self {
            store,
            clock,
            proxy,
            directory,
            shared: Arc::default(),
        }
    }

    /// Reads all state documents, and deletes those that are of no use any more: no retry period that began longer than `kept` ago still runs.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn read(&self, kept: Duration) -> Result<Vec<Document>> {
        let now = self.clock.now();
        let not_since = |at: DateTime| doc! { "$not": { "$gte": at } };
        let mut over = all_states();
        over.extend(doc! {
            "waitingSince": { "$exists": false }, "servedSince": not_since(earlier(now, kept)), "slowedUntil": not_since(now),
            "deadUntold": { "$exists": false }, "deadToldAt": not_since(earlier(now, DEAD_EVERY)),
        });
        // Only tidies up.
        let _ = self.store.state().delete_many(over).await;
        Ok(self.store.state().find(all_states()).await?.try_collect().await?)
    }

    /// Takes over what they say. Returns which endpoints are paused, and for how long.
    pub fn load(&self, documents: &[Document]) -> Vec<(EndpointKey, Duration)> {
        let now = self.clock.now();
        let (mut known, mut paused) = (self.shared.known.lock(), Vec::new());
        for document in documents {
            let Some(endpoint) = endpoint_of_state(document) else {
                continue;
            };
            let pause = document
                .get_datetime("slowedUntil")
                .map_or(Duration::ZERO, |until| time_until(*until, now));
            if !pause.is_zero() {
                paused.push((endpoint.clone(), pause));
            }
            let state = match document.get_datetime("servedSince") {
                Ok(at) => State::ServedSince(*at),
                Err(_) if document.contains_key("waitingSince") => State::Waiting,
                Err(_) => continue,
            };
            // What this instance has not saved yet is news.
            if !known.unsaved.contains(&endpoint) {
                known.states.insert(endpoint, state);
            }
        }
        paused
    }

    /// Notes that deliveries of that endpoint wait, or that it is served again, if they had to: then their retry period begins anew. Returns
    /// whether it is served again now.
    pub fn note(&self, endpoint: &EndpointKey, state: &EndpointState) -> bool {
        let waited = || self.shared.known.lock().states.get(endpoint) == Some(&State::Waiting);
        let is_served_again = *state == EndpointState::Served && waited();
        match state {
            EndpointState::OutOfService | EndpointState::Held | EndpointState::Suspended { .. } => {
                self.set(endpoint, State::Waiting)
            }
            EndpointState::Served if is_served_again => self.set(endpoint, State::ServedSince(self.clock.now())),
            EndpointState::Served
            | EndpointState::ProxyUnavailable
            | EndpointState::Off(_)
            | EndpointState::NotAssigned => {}
        }
        is_served_again
    }

    /// Notes that the endpoint is off, and nothing waits for it any more.
    pub fn note_off(&self, endpoint: &EndpointKey) {
        let is_known = self.shared.known.lock().states.contains_key(endpoint);
        if is_known {
            self.set(endpoint, State::Off);
        }
    }

    /// Since when the endpoint is served again, as far as its deliveries had to wait, be it for the proxy.
    pub fn served_since(&self, endpoint: &EndpointKey) -> Option<DateTime> {
        self.own_served_since(endpoint).max(self.proxy_back_since(endpoint))
    }

    fn proxy_back_since(&self, endpoint: &EndpointKey) -> Option<DateTime> {
        if !self.proxy.had_outage() {
            return None;
        }
        let Found::Served(endpoint) = self.directory.find(endpoint) else {
            return None;
        };
        let back_for = self.proxy.back_for(&endpoint)?;
        Some(earlier(self.clock.now(), back_for))
    }

    /// Since when the endpoint itself is served again; `None` if its deliveries never had to wait for it.
    pub(super) fn own_served_since(&self, endpoint: &EndpointKey) -> Option<DateTime> {
        match self.shared.known.lock().states.get(endpoint)? {
            State::ServedSince(at) => Some(*at),
            State::Waiting | State::Off => None,
        }
    }

    fn set(&self, endpoint: &EndpointKey, state: State) {
        let mut known = self.shared.known.lock();
        if known.states.get(endpoint) != Some(&state) {
            known.states.insert(endpoint.clone(), state);
            known.unsaved.insert(endpoint.clone());
            self.shared.changed.notify_one();
        }
    }

    /// Saves changes until `stop`: those of many endpoints at once, if `is_mine` says so at that moment. What another instance has
    /// saved meanwhile is newer.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable.
    pub async fn run(
        self,
        is_mine: impl Fn(&EndpointKey) -> bool,
        stop: CancellationToken,
    ) -> std::result::Result<(), Stopped> {
        let mut refused = Pauses::default();
        let changed = || tokio::time::timeout(AGAIN, self.shared.changed.notified());
        while stop.run_until_cancelled(changed()).await.is_some() {
            if self.unsaved(&refused, &is_mine).is_empty() {
                continue;
            }
            let save = || self.save(&refused, &is_mine);
            let (written, errors) = self.store.persist("save the states of endpoints", save).await?;
            self.saved(&written, &errors, &mut refused);
        }
        Ok(())
    }

    fn unsaved(
        &self,
        refused: &Pauses<EndpointKey>,
        is_mine: impl Fn(&EndpointKey) -> bool,
    ) -> Vec<(EndpointKey, State)> {
        let now = Instant::now();
        let may_write = |endpoint: &EndpointKey| is_mine(endpoint) && !refused.has(endpoint, now);
        self.shared.known.lock().unsaved(may_write)
    }

    /// What is unsaved is asked for anew at each try: an outage may take long.
    async fn save(
        &self,
        refused: &Pauses<EndpointKey>,
        is_mine: impl Fn(&EndpointKey) -> bool,
    ) -> Result<(Vec<(EndpointKey, State)>, Vec<Error>)> {
        let unsaved = self.unsaved(refused, is_mine);
        if unsaved.is_empty() {
            // It was forgotten meanwhile. That the outage is over must be true all the same.
            self.store.state().find_one(doc! { "_id": LEASE }).await?;
            return Ok((unsaved, Vec::new()));
        }
        let rows = unsaved.iter().map(|(endpoint, state)| self.row(endpoint, *state));
        let rows: Vec<_> = rows.collect();
        let errors = self.store.update_each(STATE, &rows).await?;
        Ok((unsaved, errors))
    }

    /// Forgets of endpoints that are another instance's now that they wait, and what is not saved. The rest is saved again, if it waited for that.
    pub fn forget(&self, is_foreign: impl Fn(&EndpointKey) -> bool) {
        let mut known = self.shared.known.lock();
        known.forget(is_foreign);
        if !known.unsaved.is_empty() {
            self.shared.changed.notify_one();
        }
    }

    fn saved(&self, written: &[(EndpointKey, State)], errors: &[Error], refused: &mut Pauses<EndpointKey>) {
        let index = |error: &Error| error.row().map(|row| row.index);
        let is_refused: HashSet<usize> = errors.iter().filter_map(index).collect();
        let mut known = self.shared.known.lock();
        for (index, (endpoint, state)) in written.iter().enumerate() {
            if is_refused.contains(&index) {
                refused.refused(endpoint.clone(), Instant::now());
            } else if known.states.get(endpoint) == Some(state) {
                refused.accepted(endpoint);
                known.unsaved.remove(endpoint);
                if *state == State::Off {
                    known.states.remove(endpoint);
                }
            }
        }
        if let Some(error) = errors.first() {
            let endpoint = index(error).and_then(|index| written.get(index));
            let (endpoint, endpoints) = (endpoint.map(|(endpoint, _)| endpoint.as_str()), errors.len());
            error!(endpoint, endpoints, %error, "MongoDB refuses to save the state of this endpoint, or of several: this instance remembers them, tried again in a minute or more; the others are saved");
        }
    }

    fn row(&self, endpoint: &EndpointKey, state: State) -> RawDocumentBuf {
        let update = match state {
            State::Waiting => rawdoc! { "$set": { "waitingSince": self.clock.now() }, "$unset": { "servedSince": 1 } },
            State::Off => rawdoc! { "$unset": { "servedSince": 1, "waitingSince": 1 } },
            State::ServedSince(at) => rawdoc! { "$set": { "servedSince": at }, "$unset": { "waitingSince": 1 } },
        };
        upsert_row(rawdoc! { "_id": state_id(endpoint) }, update)
    }
}

impl Known {
    fn unsaved(&self, may_write: impl Fn(&EndpointKey) -> bool) -> Vec<(EndpointKey, State)> {
        let unsaved = self.unsaved.iter().filter(|endpoint| may_write(endpoint));
        let state = |endpoint: &EndpointKey| Some((endpoint.clone(), *self.states.get(endpoint)?));
        unsaved.filter_map(state).collect()
    }

    fn forget(&mut self, is_foreign: impl Fn(&EndpointKey) -> bool) {
        self.unsaved.retain(|endpoint| !is_foreign(endpoint));
        // Since when it is served, results of what is still in flight need. That it waits is read again when it is this instance's.
        self.states
            .retain(|endpoint, state| *state != State::Waiting || !is_foreign(endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(states: &[(&EndpointKey, State)]) -> Known {
        let mut known = Known::default();
        for (endpoint, state) in states {
            known.states.insert((*endpoint).clone(), *state);
            known.unsaved.insert((*endpoint).clone());
        }
        known
    }

    #[test]
    fn nothing_is_saved_of_an_endpoint_that_is_another_instances() {
        let [mine, lost] = ["o/mine", "o/lost"].map(EndpointKey::from_stored);
        let served = State::ServedSince(DateTime::from_millis(7));
        // What is not saved of both, and what is still known of the one that is lost: its results may be on their way.
        for (state, left) in [(State::Waiting, None), (served, Some(&served))] {
            let mut known = known(&[(&mine, state), (&lost, state)]);
            assert_eq!(known.unsaved(|endpoint| *endpoint == mine), [(mine.clone(), state)]);
            known.forget(|endpoint| *endpoint == lost);
            assert_eq!(known.unsaved(|_| true), [(mine.clone(), state)]);
            assert_eq!((known.states.get(&mine), known.states.get(&lost)), (Some(&state), left));
        }
        // The other instance may say meanwhile that it waits no more.
        let mut saved = known(&[(&mine, State::Waiting), (&lost, State::Waiting)]);
        saved.unsaved.clear();
        saved.forget(|endpoint| *endpoint == lost);
        assert_eq!(saved.states.keys().collect::<Vec<_>>(), [&mine]);
    }
}
