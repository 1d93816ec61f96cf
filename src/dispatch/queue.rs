//! The delivery queue: the deliveries that this instance has in memory, bounded, with a queue per endpoint.
//!
//! A slot is a unit of its capacity: a delivery holds one from when it is enqueued until its result is recorded or it is
//! dropped. Dropping loses nothing: memory is a cache of the outbox, in which the delivery stays pending.
//!
//! Organizations take turns, and within one its endpoints do. See `admission` for how many slots an endpoint gets.

mod bytes;
mod endpoint;
mod health;
mod overtaken;
mod state;
mod turns;
mod unsent;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::admission::Granted;
use super::pace::ConfiguredPace;
use crate::model::{EndpointKey, Outcome};
use crate::outbox::{Class, Delivery, Fetched};

use state::State;

/// Payload bytes in memory, at most, of small payloads and of large ones: see `bytes`.
const MAX_BYTES: usize = 16 << 20;

/// Batches of one endpoint whose results can't be recorded, at most: with that many nothing more is read for it.
const MAX_EXCLUDED: usize = 256;

/// Unsent deliveries of an endpoint that freed no slot for this long give way where others want slots.
const STUCK: Duration = Duration::from_secs(1);

/// Says of an endpoint what is not the queue's to know.
pub trait Gate: Send + Sync {
    /// Whether this instance may begin a request to the endpoint now.
    fn may_begin(&self, endpoint: &EndpointKey) -> bool;

    /// What its configuration says of its pace.
    fn configured(&self, endpoint: &EndpointKey) -> ConfiguredPace;
}

/// The sizes of the queue, from `[queue]` and `[delivery]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Slots in all.
    pub capacity: usize,
    /// Requests in flight, in all.
    pub max_in_flight: usize,
    /// Requests in flight per endpoint.
    pub concurrency: usize,
}

#[derive(Clone)]
pub struct DeliveryQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    gate: Box<dyn Gate>,
    /// Notified when the fetcher may find something to do.
    fetch: Notify,
    /// Notified when a request may begin.
    send: Notify,
}

/// How full the queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Slots taken.
    pub taken: usize,
    /// Of these, deliveries that are not sent yet.
    pub queued: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Endpoints that are only probed.
    pub probed: usize,
    /// Slots in all.
    pub capacity: usize,
}

/// What happened to endpoints since the fetcher last asked.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// They have used up enough that more may be fetched.
    pub(super) refill: HashSet<EndpointKey>,
    /// Slots were freed: whoever wanted some in vain may ask again.
    pub(super) freed: bool,
    /// Endpoints that had deliveries dropped: these must be fetched again, before what is known to wait.
    pub(super) dropped: HashSet<EndpointKey>,
}

/// What of an endpoint's is in memory.
#[derive(Debug, Default)]
pub(super) struct InMemory {
    /// The batches.
    pub(super) batches: Vec<Arc<str>>,
    /// Batches whose results can't be recorded. They need not be in memory, and must not be read now.
    pub(super) excluded: Vec<Arc<str>>,
    pub(super) partial: Option<Partial>,
    /// Unsent deliveries of the class `background`.
    pub(super) background: usize,
}

impl InMemory {
    /// The batches that must not be read now.
    pub(super) fn passed_over(&self) -> Vec<Arc<str>> {
        self.batches.iter().chain(&self.excluded).cloned().collect()
    }
}

/// A batch of which only the first deliveries were read, or are still in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) batch: Arc<str>,
    /// The place of the next delivery in the batch.
    pub(super) next: u32,
    pub(super) class: Class,
}

impl Partial {
    fn new(batch: &Arc<str>, next: u32, class: Class) -> Self {
        Self {
            batch: Arc::clone(batch),
            next,
            class,
        }
    }
}

impl DeliveryQueue {
    /// An empty queue.
    pub fn new(limits: Limits, gate: impl Gate + 'static) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(limits)),
            gate: Box::new(gate),
            fetch: Notify::new(),
            send: Notify::new(),
        }))
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        self.0.state.lock().fill()
    }

    /// Slots in all.
    pub(super) fn capacity(&self) -> usize {
        self.0.state.lock().limits.capacity
    }

    /// From now on these sizes. What is in memory beyond them drains.
    pub fn resize(&self, limits: Limits) {
        self.0.state.lock().limits = limits;
        self.0.send.notify_one();
        self.wake_fetcher();
    }

    /// Has the fetcher look what it can do.
    pub fn wake_fetcher(&self) {
        self.0.fetch.notify_one();
    }

    pub(super) fn fetch_wanted(&self) -> &Notify {
        &self.0.fetch
    }

    pub(super) fn send_wanted(&self) -> &Notify {
        &self.0.send
    }

    /// How many endpoints that are known to answer have something in memory or are among `asking`.
    pub(super) fn contenders(&self, asking: &[EndpointKey]) -> usize {
        self.0.state.lock().contenders(asking, Instant::now())
    }

    /// How many more deliveries of that endpoint may come into memory, beside that many `contenders` and what was `granted` to
    /// others just now. `0` for one that gets nothing yet: see [`DeliveryQueue::resumes_at`].
    pub(super) fn admit(&self, endpoint: &EndpointKey, contenders: usize, granted: &Granted) -> usize {
        let mut state = self.0.state.lock();
        state.admit(
            endpoint,
            self.0.gate.configured(endpoint),
            contenders,
            granted,
            Instant::now(),
        )
    }

    /// Whether the endpoint is known to answer.
    pub(super) fn answers(&self, endpoint: &EndpointKey) -> bool {
        self.0.state.lock().breakers.answers(endpoint)
    }

    /// When the endpoint may get something again, if it is only probed or paused, or has very many batches whose results can't be
    /// recorded.
    pub(super) fn resumes_at(&self, endpoint: &EndpointKey) -> Option<Instant> {
        self.0.state.lock().resumes_at(endpoint)
    }

    /// When the next request may begin that has to wait for its time.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.0.state.lock().wakes_at()
    }

    /// Nothing is sent to that endpoint for this long.
    pub fn pause(&self, endpoint: &EndpointKey, pause: Duration) {
        if let Some(until) = Instant::now().checked_add(pause) {
            self.0.state.lock().paces.pause(endpoint, until);
        }
    }

    /// Bytes of small payloads that may still come into memory.
    pub(super) fn spare_bytes(&self) -> usize {
        MAX_BYTES.saturating_sub(self.0.state.lock().bytes.small)
    }

    /// Whether a payload of that size may come into memory now.
    pub(super) fn has_space(&self, endpoint: &EndpointKey, payload: usize) -> bool {
        self.0.state.lock().has_space(endpoint, payload)
    }

    /// What of that endpoint's is in memory.
    pub(super) fn in_memory(&self, endpoint: &EndpointKey) -> InMemory {
        self.0.state.lock().in_memory(endpoint)
    }

    /// A look begins: see [`DeliveryQueue::is_passed_over`].
    pub(super) fn begin_look(&self) {
        self.0.state.lock().left_since_look = Some(HashSet::new());
    }

    /// What the look has found was made use of.
    pub(super) fn end_look(&self) {
        self.0.state.lock().left_since_look = None;
    }

    /// Whether that batch must not be read now: deliveries of it are in memory, or were when the look began that found it, or its
    /// results can't be recorded.
    pub(super) fn is_passed_over(&self, endpoint: &EndpointKey, batch: &str) -> bool {
        self.0.state.lock().is_passed_over(endpoint, batch)
    }

    /// How many endpoints could be granted a slot now: of those that are not known to answer, and in all.
    pub(super) fn spare(&self) -> (usize, usize) {
        self.0.state.lock().spare()
    }

    /// Puts deliveries of a batch in the queue, at most `limit`, and none that is there. Returns how many.
    pub(super) fn enqueue(&self, fetched: Fetched, limit: usize) -> usize {
        let count = self.0.state.lock().enqueue(fetched, limit, Instant::now());
        if count > 0 {
            self.0.send.notify_one();
        }
        count
    }

    /// The next delivery to send; its request counts as in flight from now on.
    pub(super) fn next(&self) -> Option<Delivery> {
        let mut state = self.0.state.lock();
        let woke_at = state.wakes_at();
        let next = state.next(&*self.0.gate, Instant::now());
        if state.wakes_at() != woke_at {
            self.0.send.notify_one();
        }
        if next.is_none() && state.has_changes() {
            self.0.fetch.notify_one();
        }
        next
    }

    /// The request of a delivery has ended. One that was not sent leaves memory; of all others the result must be recorded.
    /// Returns for how long the endpoint is paused, if it asked for that.
    pub(super) fn ended(&self, delivery: &Delivery, outcome: &Outcome) -> Option<Duration> {
        let mut state = self.0.state.lock();
        let pause = state.ended(delivery, outcome, Instant::now());
        if state.may_send_more() {
            self.0.send.notify_one();
        }
        if state.has_changes() {
            self.0.fetch.notify_one();
        }
        pause
    }

    /// The results of these deliveries are recorded, or given up: they leave memory.
    pub(super) fn recorded<'a>(&self, deliveries: impl Iterator<Item = &'a Delivery>) {
        let mut state = self.0.state.lock();
        deliveries.for_each(|delivery| state.recorded(delivery));
        if state.has_changes() {
            self.0.fetch.notify_one();
        }
    }

    /// The results of that batch can't be recorded: it is not read again for `pause`.
    pub(super) fn exclude(&self, endpoint: &EndpointKey, batch: Arc<str>, pause: Duration) {
        self.0.state.lock().exclude(endpoint, batch, Instant::now() + pause);
    }

    /// What changed since this was last asked.
    pub(super) fn drain_changes(&self) -> Changes {
        self.0.state.lock().drain_changes()
    }

    /// Slots were wanted in vain: drops unsent deliveries of endpoints that freed none for a while.
    pub(super) fn drop_stuck(&self) {
        self.0.state.lock().drop_stuck(Instant::now(), STUCK);
    }

    /// These endpoints ask for what goes before the class `background`, and some have asked in vain if `is_starved`: where space is
    /// lacking, unsent deliveries of that class are dropped, if none of their endpoint was sent for a while.
    pub(super) fn drop_overtaken(&self, asking: &[&EndpointKey], is_starved: bool) {
        let mut state = self.0.state.lock();
        state.drop_overtaken(asking, is_starved, Instant::now(), STUCK);
    }

    /// Endpoints that are only probed.
    pub fn probed(&self) -> Vec<EndpointKey> {
        self.0.state.lock().breakers.open().cloned().collect()
    }

    /// Drops the unsent deliveries of an endpoint, and what is known of its health.
    pub fn forget(&self, endpoint: &EndpointKey) {
        let mut state = self.0.state.lock();
        state.drop_unsent(endpoint);
        state.breakers.forget(endpoint);
        state.too_large.remove(endpoint);
    }

    /// Drops all unsent deliveries, and what is being read: the outbox may have changed.
    pub fn drop_all_unsent(&self) {
        let mut state = self.0.state.lock();
        state.refuses_read = true;
        state.drop_all_unsent();
    }

    /// From now on the endpoint gets one request at a time, and one more per 20 successes.
    pub fn begin_gently(&self, endpoint: &EndpointKey) {
        self.0.state.lock().paces.begin_gently(endpoint);
    }

    /// Drops the unsent deliveries of endpoints that are not assigned to this instance any more. Returns those of them with
    /// requests in flight or results that are not recorded: this instance is draining them.
    pub fn drain(&self, assigned: impl Fn(&EndpointKey) -> bool) -> Vec<EndpointKey> {
        self.0.state.lock().drain(assigned)
    }

    /// What is being read now must not be enqueued: its endpoint may have been another instance's since the read began.
    pub fn refuse_reads(&self) {
        self.0.state.lock().refuses_read = true;
    }

    /// The fetcher begins a read.
    pub(super) fn begin_read(&self) {
        self.0.state.lock().refuses_read = false;
    }

    /// From now on nothing begins and nothing is enqueued.
    pub(super) fn close(&self) {
        self.0.state.lock().closed = true;
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::{ConfiguredPace, EndpointKey, Gate};

    /// A gate that is open where this says so.
    pub(in crate::dispatch) struct Open(pub(in crate::dispatch) fn(&EndpointKey) -> bool);

    impl Gate for Open {
        fn may_begin(&self, endpoint: &EndpointKey) -> bool {
            self.0(endpoint)
        }

        fn configured(&self, _: &EndpointKey) -> ConfiguredPace {
            ConfiguredPace::default()
        }
    }
}

#[cfg(test)]
mod tests;
