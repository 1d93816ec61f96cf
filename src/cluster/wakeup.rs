//! Notes between instances: which endpoints something was appended for. Best effort: what a note misses is found by the fetcher's
//! look, within a second where other instances are known.
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

/// Endpoints in one note, at most: beyond that the look finds them.
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
    /// Endpoints, with when something was last appended for them.
    appended: Mutex<BTreeMap<EndpointKey, Instant>>,
    noted: Notify,
}

impl WakeUps {
    /// Something was appended for these endpoints.
    pub fn note(&self, endpoints: impl Iterator<Item = EndpointKey>) {
        let (mut appended, now) = (self.0.appended.lock(), Instant::now());
        for endpoint in endpoints {
            if appended.len() < NOTED || appended.contains_key(&endpoint) {
                appended.insert(endpoint, now);
            }
        }
        self.0.noted.notify_one();
    }

    /// Writes notes while others are alive, until `stop`.
    pub async fn write(self, cluster: Cluster, stop: CancellationToken) {
        let mut number = 0_i64;
        while stop.run_until_cancelled(self.0.noted.notified()).await.is_some() {
            let endpoints = self.recent();
            if !cluster.has_others() || endpoints.is_empty() {
                continue;
            }
            number += 1;
            let endpoints: Vec<&str> = endpoints.iter().map(EndpointKey::as_str).collect();
            let id = note_id(cluster.instance_id());
            let note = doc! { "$set": { "n": number, "endpoints": endpoints, "at": cluster.now() } };
            let state = cluster.store.state();
            // If it fails, the look finds them.
            let _ = state.update_one(doc! { "_id": id }, note).upsert(true).await;
            stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
    }

    fn recent(&self) -> Vec<EndpointKey> {
        let mut appended = self.0.appended.lock();
        appended.retain(|_, at| at.elapsed() < KEPT);
        appended.keys().cloned().collect()
    }

    /// Reads the others' notes while there are others, until `stop`. `woken` hears of endpoints for which something may wait,
    /// `control` of the control number.
    pub async fn read(
        cluster: Cluster,
        stop: CancellationToken,
        woken: impl Fn(Vec<EndpointKey>),
        control: impl Fn(i64),
        progress: impl Fn(),
    ) {
        let mut seen = HashMap::new();
        let mut reporter = cluster.store.outage().reporter();
        let pause = || match cluster.has_others() {
            true => WAKE_UP_EVERY,
            false => ALONE,
        };
        while stop.run_until_cancelled(sleep_about(pause())).await.is_some() {
            progress();
            if !cluster.has_others() {
                seen.clear();
                // What failed before is not repeated: it is no part of an outage any more.
                reporter = cluster.store.outage().reporter();
                continue;
            }
            let began = std::time::Instant::now();
            let done = read_once(&cluster, &mut seen, &woken, &control).await;
            reporter.ended("read other instances' notes", began, &done);
        }
    }
}

async fn read_once(
    cluster: &Cluster,
    seen: &mut HashMap<String, i64>,
    woken: &impl Fn(Vec<EndpointKey>),
    control: &impl Fn(i64),
) -> Result<()> {
    // Of those that are alive: who was killed has left its note.
    let mut ids: Vec<String> = cluster.others().iter().map(|id| note_id(id)).collect();
    seen.retain(|id, _| ids.contains(id));
    ids.push(CONTROL.to_owned());
    let state = cluster.store.state();
    let notes: Vec<Document> = state.find(doc! { "_id": { "$in": ids } }).await?.try_collect().await?;
    for note in notes {
        let id = note.get_str("_id").unwrap_or_default();
        if id == CONTROL {
            control(note.get_i64("number").unwrap_or(0));
            continue;
        }
        let number = note.get_i64("n").unwrap_or(0);
        if seen.insert(id.to_owned(), number) == Some(number) {
            continue;
        }
        let endpoints = note.get_array("endpoints").into_iter().flatten();
        woken(
            endpoints
                .filter_map(Bson::as_str)
                .map(EndpointKey::from_stored)
                .collect(),
        );
    }
    Ok(())
}
