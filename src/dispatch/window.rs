//! The bounded queue: what this daemon holds in memory, a lane an endpoint.
//!
//! Shared fairly: an endpoint gets a place only while it holds fewer than are free, so that n greedy endpoints leave one
//! (n+1)th of the window to the others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::breaker::Breakers;
use crate::model::EndpointKey;
use crate::outbox::{Claimed, Intake, Slot};

/// Bodies of at most so many bytes are held, whatever the capacity; a single larger one may always enter an empty window.
const MAX_BYTES: usize = 16 << 20;

/// Whether this daemon delivers to an endpoint.
pub(super) type Owns = dyn Fn(&EndpointKey) -> bool + Send + Sync;

/// Endpoints that are only probed take no more places than this between them, so that any number of hung ones leaves requests
/// in flight to the others.
const MAX_PROBES: usize = 64;

/// How long a source waits for places.
const PATIENCE: Duration = Duration::from_millis(100);

/// The window. Cheap to clone.
#[derive(Clone)]
pub struct Window(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    capacity: usize,
    concurrency: AtomicUsize,
    owns: Box<Owns>,
    /// Lanes that want one more worker.
    ready: mpsc::UnboundedSender<EndpointKey>,
    /// Rung when deliveries wait in the outbox, or when a place got free while some do.
    bell: Notify,
    /// Rung when a place got free.
    freed: Notify,
}

#[derive(Default)]
struct State {
    held: usize,
    bytes: usize,
    /// Places taken by endpoints that are only probed.
    probes: usize,
    lanes: HashMap<EndpointKey, Lane>,
    breakers: Breakers,
    closed: bool,
}

#[derive(Default)]
struct Lane {
    /// Places taken: reserved, queued, in flight, or waiting for their result to be written.
    held: usize,
    queue: VecDeque<Job>,
    workers: usize,
    /// Older deliveries may wait in the outbox: new ones must queue up behind them.
    waiting: bool,
}

/// A delivery and its place in the window.
pub struct Job {
    pub(crate) delivery: Claimed,
    pub(crate) place: Place,
}

/// A place in the window; dropped, it is free again.
pub(crate) struct Place {
    window: Window,
    endpoint: EndpointKey,
    bytes: usize,
    probe: bool,
}

/// How full the window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Places taken.
    pub held: usize,
    /// Of these, deliveries that wait for a worker.
    pub queued: usize,
    /// Endpoints that are only probed.
    pub probed: usize,
    /// Places in all.
    pub capacity: usize,
}

impl Window {
    /// A window of `capacity` places, with at most `concurrency` workers a lane. Lanes that want one more worker come out of
    /// the receiver.
    pub fn new(
        capacity: usize,
        concurrency: usize,
        owns: Box<dyn Fn(&EndpointKey) -> bool + Send + Sync>,
    ) -> (Self, mpsc::UnboundedReceiver<EndpointKey>) {
        let (ready, wanted) = mpsc::unbounded_channel();
        let concurrency = AtomicUsize::new(concurrency);
        let shared = Shared {
            state: Mutex::default(),
            capacity,
            concurrency,
            owns,
            ready,
            bell: Notify::new(),
            freed: Notify::new(),
        };
        (Self(Arc::new(shared)), wanted)
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        let state = self.0.state.lock();
        let queued = state.lanes.values().map(|lane| lane.queue.len()).sum();
        Fill {
            held: state.held,
            queued,
            probed: state.breakers.open(),
            capacity: self.0.capacity,
        }
    }

    /// Has the feeder look at once.
    pub fn look(&self) {
        self.0.bell.notify_one();
    }

    /// From now on at most `concurrency` workers a lane: a lane that has more loses them as they come for work.
    pub fn set_concurrency(&self, concurrency: usize) {
        self.0.concurrency.store(concurrency, Ordering::Relaxed);
    }

    fn concurrency(&self) -> usize {
        self.0.concurrency.load(Ordering::Relaxed)
    }

    /// The bell that tells the feeder to look.
    pub(crate) fn bell(&self) -> &Notify {
        &self.0.bell
    }

    /// Whether this daemon delivers to that endpoint.
    pub(crate) fn owns(&self, endpoint: &EndpointKey) -> bool {
        (self.0.owns)(endpoint)
    }

    /// Takes no more; what is queued comes back, to be released. What is in flight goes on.
    pub(crate) fn close(&self) -> Vec<Job> {
        let mut state = self.0.state.lock();
        state.closed = true;
        state.lanes.values_mut().flat_map(|lane| lane.queue.drain(..)).collect()
    }

    /// The next delivery of a lane, or `None`: then that worker is no more counted.
    pub(crate) fn pop(&self, endpoint: &EndpointKey) -> Option<Job> {
        let mut state = self.0.state.lock();
        let lane = state.lanes.get_mut(endpoint)?;
        let surplus = lane.workers > self.concurrency();
        let job = if surplus { None } else { lane.queue.pop_front() };
        if job.is_none() {
            lane.workers -= 1;
            forget_idle(&mut state, endpoint);
        }
        job
    }

    /// Takes places for deliveries that are about to be claimed, until the lane holds its `share`; their bodies are counted when
    /// they are put in.
    ///
    /// A lane is refilled when half of its share is used up: a claim for every freed place would be a command a delivery. An
    /// endpoint that is only probed gets one place, once a second.
    pub(crate) fn take(&self, endpoint: &EndpointKey, share: usize) -> Vec<Place> {
        let mut state = self.0.state.lock();
        if state.closed || state.bytes >= MAX_BYTES {
            return Vec::new();
        }
        let held = state.lanes.get(endpoint).map_or(0, |lane| lane.held);
        let probe = state.breakers.is_open(endpoint);
        let wanted = match probe {
            true if held > 0 || state.probes >= MAX_PROBES => 0,
            true => usize::from(state.breakers.may_probe(endpoint, Instant::now())),
            false if held > share / 2 => 0,
            false => share - held,
        };
        let granted = wanted.min(self.0.capacity - state.held);
        (0..granted)
            .map(|_| self.place(&mut state, endpoint, 0, probe))
            .collect()
    }

    /// The endpoint answered: its breaker is closed.
    pub(crate) fn succeeded(&self, endpoint: &EndpointKey) {
        self.0.state.lock().breakers.succeeded(endpoint);
    }

    /// An attempt failed: its breaker may open.
    pub(crate) fn failed(&self, endpoint: &EndpointKey) {
        self.0.state.lock().breakers.failed(endpoint, Instant::now());
    }

    /// Whether a delivery must go back to the outbox, because its endpoint is only probed since it was queued.
    pub(crate) fn must_wait(&self, job: &Job) -> bool {
        !job.place.probe && self.0.state.lock().breakers.is_open(&job.place.endpoint)
    }

    /// Says whether a lane has deliveries due in the outbox.
    pub(crate) fn set_waiting(&self, endpoint: &EndpointKey, waiting: bool) {
        let mut state = self.0.state.lock();
        if waiting {
            state.lanes.entry(endpoint.clone()).or_default().waiting = true;
        } else if let Some(lane) = state.lanes.get_mut(endpoint) {
            lane.waiting = false;
            forget_idle(&mut state, endpoint);
        }
    }

    /// The lanes that are marked as having deliveries wait in the outbox.
    pub(crate) fn waiting(&self) -> Vec<EndpointKey> {
        let state = self.0.state.lock();
        state
            .lanes
            .iter()
            .filter(|(_, lane)| lane.waiting)
            .map(|(endpoint, _)| endpoint.clone())
            .collect()
    }

    fn place(&self, state: &mut State, endpoint: &EndpointKey, bytes: usize, probe: bool) -> Place {
        state.held += 1;
        state.probes += usize::from(probe);
        state.bytes += bytes;
        match state.lanes.get_mut(endpoint) {
            Some(lane) => lane.held += 1,
            None => state.lanes.entry(endpoint.clone()).or_default().held = 1,
        }
        Place {
            window: self.clone(),
            endpoint: endpoint.clone(),
            bytes,
            probe,
        }
    }

    /// The places that the lanes together may still take, at most a quarter of all, so that several portions are under way at
    /// once; waits for as many or for [`PATIENCE`], whatever comes first: a full window may be full for long, and a source must
    /// not stand still for an endpoint.
    async fn wait_for_room(&self) -> usize {
        let enough = self.0.capacity / 4;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let freed = self.0.freed.notified();
            let free = self.shared_room();
            if free >= enough || tokio::time::timeout_at(deadline, freed).await.is_err() {
                return free.min(enough);
            }
        }
    }

    /// Of the free places, those that n lanes may take, which leave one (n+1)th of the window to the others.
    fn shared_room(&self) -> usize {
        let state = self.0.state.lock();
        let lanes = state.lanes.values().filter(|lane| lane.held > 0).count().max(1);
        (self.0.capacity * lanes / (lanes + 1)).saturating_sub(state.held)
    }

    fn push(&self, job: Job) {
        let mut state = self.0.state.lock();
        let endpoint = job.place.endpoint.clone();
        let Some(lane) = state.lanes.get_mut(&endpoint) else {
            return;
        };
        lane.queue.push_back(job);
        if lane.workers < self.concurrency() {
            lane.workers += 1;
            // The receiver lives as long as the daemon takes work.
            let _ = self.0.ready.send(endpoint);
        }
    }
}

impl Intake for Window {
    fn room(&self) -> BoxFuture<'_, usize> {
        Box::pin(self.wait_for_room())
    }

    fn reserve(&self, endpoint: &EndpointKey, bytes: usize) -> Option<Box<dyn Slot>> {
        if !self.owns(endpoint) {
            return None;
        }
        let mut state = self.0.state.lock();
        let (held, waiting) = state
            .lanes
            .get(endpoint)
            .map_or((0, false), |lane| (lane.held, lane.waiting));
        let free = self.0.capacity - state.held;
        let fits = state.bytes + bytes <= MAX_BYTES || state.held == 0;
        (!state.closed && !waiting && held < free && fits && !state.breakers.is_open(endpoint))
            .then(|| Box::new(self.place(&mut state, endpoint, bytes, false)) as Box<dyn Slot>)
    }

    fn pending(&self, endpoints: &mut dyn Iterator<Item = &EndpointKey>) {
        let mut any = false;
        for endpoint in endpoints {
            any = true;
            self.set_waiting(endpoint, true);
        }
        if any {
            self.0.bell.notify_one();
        }
    }
}

impl Slot for Place {
    fn fill(self: Box<Self>, delivery: Claimed) {
        self.put(delivery);
    }
}

impl Place {
    /// Puts a delivery in its place, to be sent.
    pub(crate) fn put(mut self, delivery: Claimed) {
        let bytes = delivery.message.body.len();
        self.window.0.state.lock().bytes += bytes - self.bytes.min(bytes);
        self.bytes = bytes;
        let window = self.window.clone();
        window.push(Job { delivery, place: self });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.window.0.state.lock();
        state.held -= 1;
        state.probes -= usize::from(self.probe);
        state.bytes = state.bytes.saturating_sub(self.bytes);
        let Some(lane) = state.lanes.get_mut(&self.endpoint) else {
            return;
        };
        lane.held -= 1;
        let wanted = lane.waiting;
        self.window.0.freed.notify_one();
        forget_idle(&mut state, &self.endpoint);
        drop(state);
        if wanted {
            self.window.0.bell.notify_one();
        }
    }
}

fn forget_idle(state: &mut State, endpoint: &EndpointKey) {
    let idle = |lane: &Lane| lane.held == 0 && lane.workers == 0 && !lane.waiting;
    if state.lanes.get(endpoint).is_some_and(idle) {
        state.lanes.remove(endpoint);
    }
}

#[cfg(test)]
mod tests;
