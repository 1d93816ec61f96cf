//! What is known to wait in the outbox, per endpoint and class. Memory is bounded: beyond a few batches per class it only says that
//! there are more.

mod class_queue;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bson::{DateTime, RawDocumentBuf};
use parking_lot::Mutex;

use super::queue::{DeliveryQueue, InMemory};
use crate::model::EndpointKey;
use crate::outbox::{Class, Head, Want};

use class_queue::{CachedBytes, ClassQueue, Known};

#[derive(Clone)]
pub struct Waiting {
    state: Arc<Mutex<State>>,
    queue: DeliveryQueue,
}

#[derive(Default)]
struct State {
    endpoints: HashMap<EndpointKey, Endpoint>,
    /// Endpoints for which the fetcher may have something to do.
    to_check: HashSet<EndpointKey>,
    /// When batches will be due that were not when they were found, and their queues.
    dues: BTreeSet<(DateTime, EndpointKey, Class)>,
    /// Until when [`Waiting::advance`] has looked for batches that are due.
    checked: Option<DateTime>,
    /// Whether the fetcher must look at all queues now.
    look: bool,
    /// Whether it must as soon as a second has passed, and the last look is rested from.
    look_soon: bool,
    /// Bytes of batches that need not be read.
    cached_bytes: CachedBytes,
    /// When a queue was last read to its end or forgotten. What was being appended then may be settled by now.
    read_to_end: Option<Instant>,
}

impl State {
    fn add_due(&mut self, due: DateTime, endpoint: &EndpointKey, class: Class) {
        if self.checked.is_none_or(|checked| due > checked) {
            self.dues.insert((due, endpoint.clone(), class));
        }
    }
}

/// What waits for one endpoint.
#[derive(Debug, Default)]
struct Endpoint {
    live: ClassQueue,
    retry: ClassQueue,
    background: ClassQueue,
    /// Whether a retry comes first the next time, where both wait.
    retry_first: bool,
    /// The class of a batch of which only the first deliveries were read.
    partial_class: Option<Class>,
}

impl Waiting {
    pub fn new(queue: DeliveryQueue) -> Self {
        Self {
            state: Arc::default(),
            queue,
        }
    }

    /// This instance has appended these batches, since `began`. Where the reply to the commit came late, a read may have found
    /// them before: then they are read again, because they may be sent and recorded already.
    pub fn appended(&self, batches: Vec<(Head, RawDocumentBuf)>, began: Instant) {
        if self.state.lock().read_to_end.is_some_and(|read| read >= began) {
            return self.queues_may_have_more(batches.into_iter().map(|(head, _)| (head.endpoint, head.class)));
        }
        self.add_known(batches.into_iter().map(|(head, document)| (head, Some(document))));
    }

    /// This instance has just made these batches pending, due now or later.
    pub fn add(&self, batches: Vec<Head>) {
        self.add_known(batches.into_iter().map(|head| (head, None)));
    }

    /// Batches may have been changed by another instance: those that are known must be read.
    pub fn forget_documents(&self) {
        let mut state = self.state.lock();
        state.read_to_end = Some(Instant::now());
        for queue in state.endpoints.values_mut().flat_map(Endpoint::parts) {
            queue.partial = None;
            queue.known.iter_mut().for_each(|known| known.cached = None);
        }
    }

    fn add_known(&self, batches: impl Iterator<Item = (Head, Option<RawDocumentBuf>)>) {
        let mut state = self.state.lock();
        for (head, document) in batches {
            let cached = document.and_then(|document| state.cached_bytes.keep(document));
            let part = state
                .endpoints
                .entry(head.endpoint.clone())
                .or_default()
                .queue_of(head.class);
            part.add(Known {
                due: head.due,
                id: head.id,
                open: head.open,
                cached,
            });
            state.add_due(head.due, &head.endpoint, head.class);
            state.to_check.insert(head.endpoint);
        }
        drop(state);
        self.queue.wake_fetcher();
    }

    /// Something may wait in these queues that is not known: they are read.
    pub fn queues_may_have_more(&self, queues: impl Iterator<Item = (EndpointKey, Class)>) {
        let mut state = self.state.lock();
        for (endpoint, class) in queues {
            let waiting = state.endpoints.entry(endpoint.clone()).or_default();
            waiting.queue_of(class).may_have_more();
            state.to_check.insert(endpoint);
        }
        drop(state);
        self.queue.wake_fetcher();
    }

    /// The same for all queues of these endpoints: something may be sent to them that was not before.
    pub fn endpoints_may_have_more(&self, endpoints: Vec<EndpointKey>) {
        if !endpoints.is_empty() {
            let queues = |endpoint: EndpointKey| Class::ALL.map(|class| (endpoint.clone(), class));
            self.queues_may_have_more(endpoints.into_iter().flat_map(queues));
        }
    }

    /// Something may wait anywhere, or endpoints may be served that were not before: the fetcher looks at all queues now, whether or not it
    /// has rested from the last look.
    pub fn look_now(&self) {
        self.state.lock().look = true;
        self.queue.wake_fetcher();
    }

    /// Something may wait that is not known: the fetcher looks at all queues a second after its last look, or when it has
    /// rested from that, however rare looks are by now.
    pub fn look_soon(&self) {
        self.state.lock().look_soon = true;
        self.queue.wake_fetcher();
    }

    /// Whether [`Self::look_soon`] was called since this was last called.
    pub(super) fn take_look_soon(&self) -> bool {
        std::mem::take(&mut self.state.lock().look_soon)
    }

    /// Whether [`Self::look_now`] was called since this was last called.
    pub(super) fn take_look(&self) -> bool {
        std::mem::take(&mut self.state.lock().look)
    }

    /// These queues have something pending, as a look found them. What is known is only added to: some may have been appended
    /// while it looked.
    pub(super) fn looked(&self, heads: Vec<Head>, now: DateTime) {
        let mut state = self.state.lock();
        for endpoint in state.endpoints.values_mut() {
            endpoint.parts().for_each(ClassQueue::looked);
        }
        for head in heads {
            let in_memory = self.queue.is_passed_over(&head.endpoint, &head.id);
            state.add_due(head.due, &head.endpoint, head.class);
            state.to_check.insert(head.endpoint.clone());
            let waiting = state.endpoints.entry(head.endpoint.clone()).or_default();
            waiting.queue_of(head.class).found(head, in_memory, now);
        }
        state.endpoints.retain(|_, waiting| !waiting.is_empty());
    }

    /// Deliveries of this endpoint left memory unsent: they wait before all that are known to wait.
    pub(super) fn note_dropped(&self, endpoint: &EndpointKey) {
        let mut state = self.state.lock();
        let waiting = state.endpoints.entry(endpoint.clone()).or_default();
        for class in Class::ALL {
            let part = waiting.queue_of(class);
            part.known.clear();
            part.partial = None;
            part.more = true;
        }
        waiting.partial_class = Some(Class::Live);
        state.to_check.insert(endpoint.clone());
    }

    /// Takes the endpoints for which the fetcher may have something to do, and those of `refill`, which have free slots again; without
    /// those for which nothing waits.
    pub(super) fn take_to_check(&self, refill: HashSet<EndpointKey>) -> Vec<EndpointKey> {
        let mut state = self.state.lock();
        let mut to_check = std::mem::take(&mut state.to_check);
        to_check.extend(refill);
        let waits = |endpoint: &EndpointKey| state.endpoints.contains_key(endpoint);
        to_check.into_iter().filter(waits).collect()
    }

    /// Those of these endpoints for which something waits that goes before the class `background`.
    pub(super) fn overtaking<'a>(&self, endpoints: &'a [EndpointKey], now: DateTime) -> Vec<&'a EndpointKey> {
        let state = self.state.lock();
        let overtakes = |endpoint: &&EndpointKey| {
            let waiting = state.endpoints.get(*endpoint);
            waiting.is_some_and(|waiting| waiting.has_other_than_background(now))
        };
        endpoints.iter().filter(overtakes).collect()
    }

    /// The fetcher could not fetch for this endpoint now, and does it again later.
    pub(super) fn retry_later(&self, endpoint: EndpointKey) {
        self.state.lock().to_check.insert(endpoint);
    }

    /// Nothing is known of this endpoint any more.
    pub(super) fn forget(&self, endpoint: &EndpointKey) {
        let mut state = self.state.lock();
        let forgotten = state.endpoints.remove(endpoint);
        if forgotten.is_some_and(|it| !it.live.is_empty() || !it.background.is_empty()) {
            state.read_to_end = Some(Instant::now());
        }
    }

    /// It is `now`: the batches that are due wait. Returns when the next will be due.
    pub(super) fn advance(&self, now: DateTime) -> Option<DateTime> {
        let mut state = self.state.lock();
        state.checked = Some(now);
        while let Some((due, endpoint, class)) = state.dues.pop_first() {
            if due > now {
                state.dues.insert((due, endpoint, class));
                return Some(due);
            }
            let waiting = state.endpoints.entry(endpoint.clone()).or_default();
            waiting.queue_of(class).comes_due(due);
            state.to_check.insert(endpoint);
        }
        None
    }

    /// What to read for an endpoint that may have `slots` more deliveries in memory. `alone`: just the next one.
    pub(super) fn choose(
        &self,
        endpoint: &EndpointKey,
        slots: usize,
        alone: bool,
        memory: &InMemory,
        now: DateTime,
    ) -> Vec<Want> {
        let mut state = self.state.lock();
        let Some(waiting) = state.endpoints.get_mut(endpoint) else {
            return Vec::new();
        };
        let partial_class = waiting.partial_class.take();
        match &memory.partial {
            // Its rest waits for what goes before it, and for its first part.
            Some(partial)
                if partial.class == Class::Background
                    && (memory.background > 0 || waiting.has_other_than_background(now)) =>
            {
                waiting.partial_class = Some(partial.class);
            }
            Some(partial) => {
                waiting.partial_class = Some(partial.class);
                return vec![waiting.rest_of(&partial.batch, partial.next, slots)];
            }
            None => {
                waiting.live.partial = None;
                // What was in memory of it is recorded or dropped: its rest waits before all that is known.
                if let Some(class) = partial_class {
                    let queue = waiting.queue_of(class);
                    queue.known.clear();
                    queue.more = true;
                }
            }
        }
        let wants = waiting.choose(endpoint, slots, alone, memory, now);
        if waiting.is_empty() {
            state.endpoints.remove(endpoint);
        }
        wants
    }

    /// A read of the next batches of a queue brought fewer than were asked for: no more are due there.
    pub(super) fn exhausted(&self, endpoint: &EndpointKey, class: Class) {
        let mut state = self.state.lock();
        // Nothing is appended to the others.
        if class != Class::Retry {
            state.read_to_end = Some(Instant::now());
        }
        if let Some(waiting) = state.endpoints.get_mut(endpoint) {
            let part = waiting.queue_of(class);
            part.more = std::mem::take(&mut part.added);
            if waiting.is_empty() {
                state.endpoints.remove(endpoint);
            }
        }
    }

    /// The endpoint could use more than it got: it is asked again at once, if something may be found by range.
    pub(super) fn ask_for_more(&self, endpoint: &EndpointKey) {
        let mut state = self.state.lock();
        let waiting = state.endpoints.get_mut(endpoint);
        if waiting.is_some_and(|waiting| waiting.parts().any(|part| part.more)) {
            state.to_check.insert(endpoint.clone());
            self.queue.wake_fetcher();
        }
    }

    /// Only the first deliveries of a batch of that class were read.
    pub(super) fn note_partial(&self, endpoint: &EndpointKey, class: Class) {
        let mut state = self.state.lock();
        state.endpoints.entry(endpoint.clone()).or_default().partial_class = Some(class);
    }

    /// Batches of that queue may still wait: not all that was asked for was read or kept.
    pub(super) fn note_more(&self, endpoint: &EndpointKey, class: Class) {
        let mut state = self.state.lock();
        let part = state.endpoints.entry(endpoint.clone()).or_default().queue_of(class);
        part.known.clear();
        part.more = true;
    }
}

impl Endpoint {
    /// The rest of a batch of which only the first `skip` deliveries are in memory.
    fn rest_of(&self, id: &Arc<str>, skip: u32, slots: usize) -> Want {
        match &self.live.partial {
            Some(partial) if partial.id == *id => Want::Appended {
                document: Arc::clone(&partial.batch.raw),
                from: skip,
                limit: slots,
            },
            _ => Want::Slice {
                id: Arc::clone(id),
                skip: Some(skip),
                limit: slots,
            },
        }
    }

    /// Where both wait, live deliveries and retries get half of the slots each; a single slot goes to them by turns. Background
    /// deliveries get slots where nothing else waits or is in memory.
    fn choose(
        &mut self,
        endpoint: &EndpointKey,
        slots: usize,
        alone: bool,
        memory: &InMemory,
        now: DateTime,
    ) -> Vec<Want> {
        let (live, retry) = (self.live.waits(now), self.retry.waits(now));
        let shares = match (live, retry) {
            (true, true) if alone || slots == 1 => {
                let first = if self.retry_first { Class::Retry } else { Class::Live };
                self.retry_first = !self.retry_first;
                vec![(first, slots)]
            }
            (true, true) => vec![(Class::Live, slots - slots / 2), (Class::Retry, slots / 2)],
            (true, false) => vec![(Class::Live, slots)],
            (false, true) => vec![(Class::Retry, slots)],
            (false, false) if self.background.waits(now) && memory.batches.is_empty() => {
                vec![(Class::Background, slots)]
            }
            (false, false) => Vec::new(),
        };
        let of = |(class, slots)| self.queue_of(class).choose(endpoint, class, slots, alone, memory, now);
        shares.into_iter().flat_map(of).collect()
    }

    fn has_other_than_background(&self, now: DateTime) -> bool {
        self.live.waits(now) || self.retry.waits(now)
    }

    fn queue_of(&mut self, class: Class) -> &mut ClassQueue {
        match class {
            Class::Live => &mut self.live,
            Class::Retry => &mut self.retry,
            Class::Background => &mut self.background,
        }
    }

    fn parts(&mut self) -> impl Iterator<Item = &mut ClassQueue> {
        [&mut self.live, &mut self.retry, &mut self.background].into_iter()
    }

    fn is_empty(&mut self) -> bool {
        self.partial_class.is_none() && self.parts().all(|part| part.is_empty())
    }
}

#[cfg(test)]
mod tests;
