//! Notes between instances: for which endpoints events were appended, and whether anything else waits for some endpoint now. A reader that
//! may have missed one looks at all queues.
//!
//! And the control number, which operations raise (hold, release, cancel, erase): an instance that reads it acts on it, then states
//! it in its heartbeat.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Cluster;
use crate::model::{EndpointKey, sleep_about};
use crate::store::{CONTROL, Result};

/// How often an instance beside others reads their notes.
const WAKE_UP_EVERY: Duration = Duration::from_millis(200);

/// How often an instance that is alone asks itself whether its heartbeats have found others.
const ALONE: Duration = Duration::from_secs(1);

/// How long an endpoint stays in the notes, so that no reader misses it.
const KEPT: Duration = Duration::from_millis(600);

/// The shortest time between two notes.
const PAUSE: Duration = Duration::from_millis(20);

/// A reader may have missed notes if it read them last this long ago.
const MISSED: Duration = Duration::from_millis(500);

/// Endpoints in one note, at most: beyond that it says that all queues must be looked at.
const NOTED: usize = 1_000;

/// The `_id` of that instance's note.
pub(super) fn note_id(instance_id: &str) -> String {
    format!("wake/{instance_id}")
}

/// The range of the `_id`s of notes.
pub(super) fn notes() -> Document {
    doc! { "$gte": "wake/", "$lt": "wake0" }
}

/// This instance's notes for the others.
#[derive(Clone, Default)]
pub struct WakeUps(Arc<Shared>);

#[derive(Default)]
struct Shared {
    recent: Mutex<Recent>,
    noted: Notify,
}

/// What other instances must know.
#[derive(Default)]
struct Recent {
    /// Endpoints, with when an event was last appended for them.
    appended: BTreeMap<EndpointKey, Instant>,
    /// When something else was last there to be found.
    look: Option<Instant>,
}

/// What a note says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Events were appended for these.
    pub endpoints: Vec<EndpointKey>,
    /// Something waits that only a look at all queues finds.
    pub look: bool,
}

impl WakeUps {
    /// Events were appended for these endpoints.
    pub fn note(&self, endpoints: impl Iterator<Item = EndpointKey>) {
        self.note_all(endpoints, false);
    }

    /// Something waits that is no event just appended.
    pub fn note_look(&self) {
        self.note_all(std::iter::empty(), true);
    }

    fn note_all(&self, endpoints: impl Iterator<Item = EndpointKey>, mut look: bool) {
        let (mut recent, now) = (self.0.recent.lock(), Instant::now());
        for endpoint in endpoints {
            if recent.appended.len() < NOTED || recent.appended.contains_key(&endpoint) {
                recent.appended.insert(endpoint, now);
            } else {
                look = true;
            }
        }
        if look {
            recent.look = Some(now);
        }
        drop(recent);
        self.0.noted.notify_one();
    }

    /// Writes notes while others are alive, until `stop`.
    pub async fn write(self, cluster: Cluster, stop: CancellationToken) {
        let mut number = 0_i64;
        while stop.run_until_cancelled(self.0.noted.notified()).await.is_some() {
            let Note { endpoints, look } = self.recent();
            if !cluster.has_others() || (endpoints.is_empty() && !look) {
                continue;
            }
            number += 1;
            let keys: Vec<&str> = endpoints.iter().map(EndpointKey::as_str).collect();
            let id = note_id(cluster.instance_id());
            let note = doc! { "$set": { "n": number, "endpoints": keys, "look": look, "at": cluster.now() } };
            let state = cluster.store.state();
            let written = state.update_one(doc! { "_id": id }, note).upsert(true).await;
            let pause = if written.is_ok() { PAUSE } else { WAKE_UP_EVERY };
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            if written.is_err() {
                self.note_all(endpoints.into_iter(), look);
            }
        }
    }

    fn recent(&self) -> Note {
        let mut recent = self.0.recent.lock();
        recent.appended.retain(|_, at| at.elapsed() < KEPT);
        recent.look = recent.look.filter(|at| at.elapsed() < KEPT);
        Note {
            endpoints: recent.appended.keys().cloned().collect(),
            look: recent.look.is_some(),
        }
    }

    /// Reads the others' notes while there are others, until `stop`. `woken` hears what they say, `control` the control number.
    pub async fn read(
        cluster: Cluster,
        stop: CancellationToken,
        woken: impl Fn(Note),
        control: impl Fn(i64),
        progress: impl Fn(),
    ) {
        let mut seen = Seen::default();
        let mut reporter = cluster.store.outage().reporter();
        let pause = || match cluster.has_others() {
            true => WAKE_UP_EVERY,
            false => ALONE,
        };
        while stop.run_until_cancelled(sleep_about(pause())).await.is_some() {
            progress();
            if !cluster.has_others() {
                seen = Seen::default();
                reporter.forget();
                continue;
            }
            let began = std::time::Instant::now();
            let done = read_once(&cluster, &mut seen, &woken, &control).await;
            reporter.ended("read other instances' notes", began, &done);
        }
    }
}

/// What was read of the others' notes.
#[derive(Default)]
struct Seen {
    numbers: HashMap<String, i64>,
    /// When they were last read.
    at: Option<Instant>,
}

async fn read_once(cluster: &Cluster, seen: &mut Seen, woken: &impl Fn(Note), control: &impl Fn(i64)) -> Result<()> {
    // Of those that are alive: who was killed has left its note.
    let mut ids: Vec<String> = cluster.others().iter().map(|id| note_id(id)).collect();
    seen.numbers.retain(|id, _| ids.contains(id));
    ids.push(CONTROL.to_owned());
    let (state, now) = (cluster.store.state(), Instant::now());
    let notes: Vec<Document> = state.find(doc! { "_id": { "$in": ids } }).await?.try_collect().await?;
    let is_late = seen.at.replace(now).is_none_or(|at| now - at > MISSED);
    for note in notes {
        let id = note.get_str("_id").unwrap_or_default();
        if id == CONTROL {
            control(note.get_i64("number").unwrap_or(0));
            continue;
        }
        let number = note.get_i64("n").unwrap_or(0);
        if seen.numbers.insert(id.to_owned(), number) == Some(number) {
            continue;
        }
        let endpoints = note.get_array("endpoints").into_iter().flatten();
        let endpoints = endpoints.filter_map(Bson::as_str).map(EndpointKey::from_stored);
        woken(Note {
            endpoints: endpoints.collect(),
            look: is_late || note.get_bool("look").unwrap_or(false),
        });
    }
    Ok(())
}
