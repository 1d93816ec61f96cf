//! The bounded queue: what this daemon holds in memory, a lane an endpoint.
//!
//! Shared fairly: an endpoint gets a place only while it holds fewer than are free, so that n greedy endpoints leave one
//! (n+1)th of the window to the others; and one whose deliveries don't come to an end gets few.

mod lane;

use std::collections::{HashMap, HashSet};
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
use lane::Lane;

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
    /// Fewer places were granted to the feeder than it wanted.
    short: bool,
    lanes: HashMap<EndpointKey, Lane>,
    breakers: Breakers,
    closed: bool,
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

    /// As many places as keep a lane's workers busy while it is refilled.
    fn few(&self) -> usize {
        self.concurrency() * 4
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
        lane.come();
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
    /// A lane is refilled when half of its share is used up: a claim for every freed place would be a command a delivery. One
    /// that frees none gets few: what hangs is not to keep places from the others. An endpoint that is only probed gets one
    /// place, once a second.
    pub(crate) fn take(&self, endpoint: &EndpointKey, share: usize) -> Vec<Place> {
        let mut state = self.0.state.lock();
        if state.closed || state.bytes >= MAX_BYTES {
            state.short = true;
            return Vec::new();
        }
        let (held, moving) = state
            .lanes
            .get(endpoint)
            .map_or((0, false), |lane| (lane.held, lane.is_moving(Instant::now())));
        let share = if moving { share } else { share.min(self.few()) };
        let probe = state.breakers.is_open(endpoint);
        let wanted = match probe {
            true if held > 0 || state.probes >= MAX_PROBES => 0,
            true => usize::from(state.breakers.may_probe(endpoint, Instant::now())),
            false if held > share / 2 => 0,
            false => share.saturating_sub(held),
        };
        let granted = wanted.min(self.0.capacity - state.held);
        state.short |= granted < wanted;
        if let Some(lane) = state.lanes.get_mut(endpoint) {
            lane.low = (!probe).then_some(share / 2);
        }
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

    /// The feeder begins to look which lanes have deliveries wait in the outbox.
    pub(crate) fn begin_look(&self) {
        let mut state = self.0.state.lock();
        state.lanes.values_mut().for_each(|lane| lane.news = false);
    }

    /// It has looked: these lanes, and no others, have deliveries due there.
    pub(crate) fn end_look<'a>(&self, due: impl Iterator<Item = &'a EndpointKey>) {
        let due: HashSet<_> = due.collect();
        let mut state = self.0.state.lock();
        for (endpoint, lane) in &mut state.lanes {
            lane.waiting &= lane.news || due.contains(endpoint);
        }
        for endpoint in &due {
            state.lanes.entry((*endpoint).clone()).or_default().waiting = true;
        }
        state.lanes.retain(|_, lane| !lane.is_idle());
        // What the look may have missed.
        let missed = |(endpoint, lane): (&EndpointKey, &Lane)| lane.news && !due.contains(endpoint);
        if state.lanes.iter().any(missed) {
            self.0.bell.notify_one();
        }
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
            let free = self.shared_room().min(enough);
            if free == enough || Instant::now() >= deadline {
                return free;
            }
            let _ = tokio::time::timeout_at(deadline, freed).await;
        }
    }

    /// Of the free places, as many as n lanes can surely take: so that as much is free in the end as two of them hold, because they
    /// don't fill up evenly. What a lane can't take goes by way of the outbox, at twice the cost, and all that follows for it too.
    /// Of stuck lanes nothing is expected: what they hold is as if it were not there. None while the feeder is behind.
    fn shared_room(&self) -> usize {
        let (state, now) = (self.0.state.lock(), Instant::now());
        let is_starved =
            |(endpoint, lane): (&EndpointKey, &Lane)| lane.is_starving() && !state.breakers.is_open(endpoint);
        if state.lanes.iter().any(is_starved) {
            return 0;
        }
        let holding = state.lanes.values().filter(|lane| lane.held > 0);
        let (stuck, moving): (Vec<_>, Vec<_>) = holding.partition(|lane| lane.is_stuck(now));
        let held = |lanes: &[&Lane]| lanes.iter().map(|lane| lane.held).sum::<usize>();
        let (capacity, lanes) = (self.0.capacity - held(&stuck), moving.len().max(1));
        (capacity * lanes / (lanes + 2)).saturating_sub(held(&moving))
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
        let free = self.0.capacity - state.held;
        let lane_may = |lane: &Lane| {
            !lane.waiting && lane.held < free && (lane.held < self.few() || !lane.is_stuck(Instant::now()))
        };
        let may = state.lanes.get(endpoint).map_or(free > 0, lane_may);
        let fits = state.bytes + bytes <= MAX_BYTES || state.held == 0;
        (!state.closed && may && fits && !state.breakers.is_open(endpoint))
            .then(|| Box::new(self.place(&mut state, endpoint, bytes, false)) as Box<dyn Slot>)
    }

    fn pending(&self, endpoints: &mut dyn Iterator<Item = &EndpointKey>) {
        let ours: Vec<_> = endpoints.filter(|endpoint| self.owns(endpoint)).collect();
        let mut state = self.0.state.lock();
        let mut unknown = false;
        for endpoint in ours {
            let lane = state.lanes.entry(endpoint.clone()).or_default();
            unknown |= !lane.waiting;
            (lane.waiting, lane.news) = (true, true);
        }
        // Of the others the feeder knows, and is told when they have room.
        if unknown {
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
        let low = lane.free_place();
        let wanted = low || std::mem::take(&mut state.short);
        self.window.0.freed.notify_one();
        forget_idle(&mut state, &self.endpoint);
        drop(state);
        if wanted {
            self.window.0.bell.notify_one();
        }
    }
}

fn forget_idle(state: &mut State, endpoint: &EndpointKey) {
    if state.lanes.get(endpoint).is_some_and(Lane::is_idle) {
        state.lanes.remove(endpoint);
    }
}

#[cfg(test)]
mod tests;
