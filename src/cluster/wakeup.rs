//! Notes between instances: for which endpoints events were appended, and whether something waits that only a look at all queues finds. What is
//! noted stays until it is written and was there for a while; a reader that may have missed something all the same looks at all queues.
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

/// How long something stays in the notes once they say it: readers see it meanwhile, but for those that are late.
const KEPT: Duration = Duration::from_millis(600);

/// The shortest time between two notes.
const PAUSE: Duration = Duration::from_millis(20);

/// A reader is late, and may have missed something, if more than this has passed from the beginning of one reading to the end of the next.
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
    /// Endpoints for which events were appended.
    appended: BTreeMap<EndpointKey, Stage>,
    /// Whether all queues must be looked at.
    look: Option<Stage>,
}

/// How far something has come that is in the notes.
#[derive(Clone, Copy)]
enum Stage {
    /// No note says it yet; it came then.
    Unwritten(Instant),
    /// Notes say it since then.
    Written(Instant),
}

impl Stage {
    fn is_kept(self) -> bool {
        match self {
            Self::Unwritten(_) => true,
            Self::Written(at) => at.elapsed() < KEPT,
        }
    }

    /// A note is written now that says all that came before `read`.
    fn written(&mut self, read: Instant) {
        if let Self::Unwritten(came) = *self
            && came < read
        {
            *self = Self::Written(Instant::now());
        }
    }
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
        let (mut recent, now) = (self.0.recent.lock(), Stage::Unwritten(Instant::now()));
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
            if !cluster.has_others() {
                *self.0.recent.lock() = Recent::default();
                continue;
            }
            let read = Instant::now();
            let note = self.recent();
            if note == Note::default() {
                continue;
            }
            number += 1;
            let endpoints: Vec<&str> = note.endpoints.iter().map(EndpointKey::as_str).collect();
            let id = note_id(cluster.instance_id());
            let note = doc! { "$set": { "n": number, "endpoints": endpoints, "look": note.look, "at": cluster.now() } };
            let state = cluster.store.state();
            match state.update_one(doc! { "_id": id }, note).upsert(true).await {
                Ok(_) => {
                    self.written(read);
                    stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
                Err(_) => {
                    stop.run_until_cancelled(tokio::time::sleep(WAKE_UP_EVERY)).await;
                    self.0.noted.notify_one();
                }
            }
        }
    }

    /// What the next note says.
    fn recent(&self) -> Note {
        let mut recent = self.0.recent.lock();
        recent.appended.retain(|_, stage| stage.is_kept());
        recent.look = recent.look.filter(|stage| stage.is_kept());
        Note {
            endpoints: recent.appended.keys().cloned().collect(),
            look: recent.look.is_some(),
        }
    }

    fn written(&self, read: Instant) {
        let recent = &mut *self.0.recent.lock();
        let stages = recent.appended.values_mut().chain(&mut recent.look);
        stages.for_each(|stage| stage.written(read));
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
    /// When the last reading began.
    at: Option<Instant>,
}

async fn read_once(cluster: &Cluster, seen: &mut Seen, woken: &impl Fn(Note), control: &impl Fn(i64)) -> Result<()> {
    // Of those that are alive: who was killed has left its note.
    let mut ids: Vec<String> = cluster.others().iter().map(|id| note_id(id)).collect();
    seen.numbers.retain(|id, _| ids.contains(id));
    ids.push(CONTROL.to_owned());
    let (state, began) = (cluster.store.state(), Instant::now());
    let notes: Vec<Document> = state.find(doc! { "_id": { "$in": ids } }).await?.try_collect().await?;
    let before = seen.at.replace(began);
    let is_late = before.is_none_or(|before| before.elapsed() > MISSED);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> EndpointKey {
        EndpointKey::from_stored(name)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_noted_stays_until_it_is_written_and_a_while_after() {
        let notes = WakeUps::default();
        notes.note([key("o/a")].into_iter());
        notes.note_look();
        tokio::time::advance(KEPT * 10).await;
        let all = Note {
            endpoints: vec![key("o/a")],
            look: true,
        };
        assert_eq!(notes.recent(), all, "a note took long to write, or failed");
        let read = Instant::now();
        tokio::time::advance(KEPT).await;
        notes.note([key("o/b")].into_iter());
        notes.written(read);
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(notes.recent().endpoints, [key("o/a"), key("o/b")]);
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(
            notes.recent().endpoints,
            [key("o/b")],
            "it came after that note was made"
        );
        assert!(!notes.recent().look);
    }

    #[test]
    fn where_there_are_too_many_endpoints_for_a_note_all_are_looked_for() {
        let notes = WakeUps::default();
        notes.note((0..NOTED).map(|n| key(&format!("o/{n}"))));
        assert!(!notes.recent().look);
        notes.note([key("o/0")].into_iter());
        assert!(!notes.recent().look, "it is noted");
        notes.note([key("o/more")].into_iter());
        assert!(notes.recent().look);
    }
}
