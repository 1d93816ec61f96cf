//! The queue's state, and every change of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bytes::Bytes;
use super::endpoint::{EndpointQueue, Organization};
use super::unsent::Unsent;
use super::{Changes, Fill, InMemory, Limits, Partial};
use crate::dispatch::admission::{Admission, Granted, quarter, usable};
use crate::dispatch::breaker::Breakers;
use crate::dispatch::pace::{ConfiguredPace, Paces};
use crate::model::{EndpointKey, Outcome};
use crate::outbox::{Batch, Delivery, Fetched};

pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) breakers: Breakers,
    pub(super) paces: Paces,
    pub(super) bytes: Bytes,
    /// Large payloads for which there was no space.
    pub(super) too_large: HashMap<EndpointKey, usize>,
    pub(super) closed: bool,
    /// Whether endpoints may have been another instance's since the fetcher began to read.
    pub(super) refuses_read: bool,
    pub(super) endpoints: HashMap<EndpointKey, EndpointQueue>,
    pub(super) organizations: HashMap<String, Organization>,
    /// Organizations that have something to send, in turn.
    pub(super) turn: VecDeque<String>,
    /// Endpoints that have something to send, and when they may.
    pub(super) timed: BinaryHeap<Reverse<(Instant, EndpointKey)>>,
    batches: HashMap<Arc<str>, Arc<Batch>>,
    /// Batches that left memory since a look began, while one is under way.
    pub(super) left_since_look: Option<HashSet<Arc<str>>>,
    pub(super) taken: usize,
    pub(super) in_flight: usize,
    /// Slots taken by endpoints that are not known to answer.
    pub(super) taken_by_unproven: usize,
    /// Endpoints in memory that contend.
    pub(super) contending: usize,
    pub(super) changes: Changes,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            breakers: Breakers::default(),
            paces: Paces::default(),
            bytes: Bytes::default(),
            too_large: HashMap::new(),
            closed: false,
            refuses_read: false,
            endpoints: HashMap::new(),
            organizations: HashMap::new(),
            turn: VecDeque::new(),
            timed: BinaryHeap::new(),
            batches: HashMap::new(),
            left_since_look: None,
            taken: 0,
            in_flight: 0,
            taken_by_unproven: 0,
            contending: 0,
            changes: Changes::default(),
        }
    }

    pub(super) fn fill(&self) -> Fill {
        Fill {
            taken: self.taken,
            queued: self.endpoints.values().map(|queue| queue.unsent.len()).sum(),
            in_flight: self.in_flight,
            probed: self.breakers.open().count(),
            capacity: self.limits.capacity,
        }
    }

    pub(super) fn contenders(&self, asking: &[EndpointKey], now: Instant) -> usize {
        let contends = |endpoint: &&EndpointKey| {
            let is_counted = self.endpoints.get(endpoint).is_some_and(|queue| queue.contends);
            let may_get_some = self.resumes_at(endpoint).is_none_or(|at| at <= now);
            !is_counted && may_get_some && self.breakers.answers(endpoint)
        };
        self.contending + asking.iter().filter(contends).count()
    }

    pub(super) fn admit(
        &mut self,
        endpoint: &EndpointKey,
        configured: ConfiguredPace,
        contenders: usize,
        granted: &Granted,
        now: Instant,
    ) -> usize {
        let may_get_some = self.resumes_at(endpoint).is_none_or(|at| at <= now);
        if self.closed || !may_get_some || !self.may_read(endpoint) {
            return 0;
        }
        let queue = self.endpoints.get(endpoint);
        let name = endpoint.organization();
        let (slots, unproven) = self
            .organizations
            .get(name)
            .map_or((0, 0), |one| (one.taken, one.unproven));
        let more = granted.to_organization(name);
        let answers = self.breakers.answers(endpoint);
        let background = queue.filter(|_| answers).map_or(0, |queue| queue.unsent.background());
        let admission = Admission {
            capacity: self.limits.capacity,
            max_in_flight: self.limits.max_in_flight,
            concurrency: self.limits.concurrency,
            contenders,
            taken: self.taken + granted.all.slots,
            taken_by_organization: slots + more.slots,
            active_of_endpoint: queue.map_or(0, EndpointQueue::active) - background,
            background_of_endpoint: background,
            active_of_unproven: self.taken_by_unproven + granted.all.unproven,
            active_of_unproven_in_organization: unproven + more.unproven,
            answers,
            usable: usable(configured.rate),
        };
        let granted = admission.grant();
        if let Some(queue) = self.endpoints.get_mut(endpoint) {
            queue.configured = configured;
            queue.low = if answers { admission.low() } else { 0 };
        }
        granted
    }

    pub(super) fn in_memory(&self, endpoint: &EndpointKey) -> InMemory {
        let Some(queue) = self.endpoints.get(endpoint) else {
            return InMemory::default();
        };
        InMemory {
            batches: queue.batches.iter().cloned().collect(),
            excluded: queue.excluded.keys().cloned().collect(),
            partial: queue.partial.clone(),
            background: queue.unsent.background(),
        }
    }

    pub(super) fn is_passed_over(&self, endpoint: &EndpointKey, batch: &str) -> bool {
        let is_excluded = |queue: &EndpointQueue| queue.excluded.contains_key(batch);
        let has_left = |left: &HashSet<Arc<str>>| left.contains(batch);
        self.batches.contains_key(batch)
            || self.left_since_look.as_ref().is_some_and(has_left)
            || self.endpoints.get(endpoint).is_some_and(is_excluded)
    }

    pub(super) fn spare(&self) -> (usize, usize) {
        let free = self.limits.capacity.saturating_sub(self.taken);
        let unproven = quarter(self.limits.max_in_flight).saturating_sub(self.taken_by_unproven);
        (unproven.min(free), free)
    }

    pub(super) fn enqueue(&mut self, mut fetched: Fetched, limit: usize, now: Instant) -> usize {
        let endpoint = fetched.batch.endpoint.clone();
        let id = Arc::clone(&fetched.batch.id);
        let queue = self.endpoints.entry(endpoint.clone()).or_default();
        let first = fetched.deliveries.first().map_or(0, |delivery| delivery.index);
        let continues = |partial: &Partial| partial.batch == id && first >= partial.next;
        let is_rest = queue.partial.as_ref().is_some_and(continues);
        let limit = limit.min(self.limits.capacity.saturating_sub(self.taken));
        let known = self.batches.get(&id).cloned();
        if self.closed
            || self.refuses_read
            || queue.excluded.contains_key(&id)
            || (known.is_some() && !is_rest)
            || limit == 0
        {
            self.forget_idle(&endpoint);
            return 0;
        }
        // Only now: of what is refused, the rest is still to be read.
        queue.partial.take_if(|_| is_rest);
        let mut rest = fetched.rest;
        if fetched.deliveries.len() > limit {
            rest = fetched.deliveries.get(limit).map(|delivery| delivery.index);
            fetched.deliveries.truncate(limit);
        }
        let count = fetched.deliveries.len();
        if count == 0 {
            self.forget_idle(&endpoint);
            return 0;
        }
        if let Some(rest) = rest {
            queue.partial = Some(Partial::new(&id, rest, fetched.class));
        }
        fetched.batch = known.unwrap_or(fetched.batch);
        self.add(&endpoint, fetched, now);
        if self.breakers.is_open(&endpoint) {
            self.breakers.probed(&endpoint, now);
        }
        self.recount(&endpoint);
        self.join_turn(&endpoint);
        count
    }

    /// Adds deliveries of a batch to their endpoint's queue.
    fn add(&mut self, endpoint: &EndpointKey, fetched: Fetched, now: Instant) {
        let (batch, deliveries) = (fetched.batch, fetched.deliveries);
        let count = deliveries.len();
        batch.add(u32::try_from(count).unwrap_or(u32::MAX));
        let queue = self.endpoints.entry(endpoint.clone()).or_default();
        queue.batches.insert(Arc::clone(&batch.id));
        queue.last_progress.get_or_insert(now);
        if queue.unsent.is_empty() {
            queue.last_progress = Some(now);
        }
        let organization = self
            .organizations
            .entry(endpoint.organization().to_owned())
            .or_default();
        organization.taken += count;
        for mut delivery in deliveries {
            let payload = delivery.message.body.len();
            for bytes in [&mut self.bytes, &mut organization.bytes, &mut queue.bytes] {
                bytes.add(payload);
            }
            delivery.batch = Arc::clone(&batch);
            queue.unsent.push(delivery, fetched.class, now);
        }
        self.batches.insert(Arc::clone(&batch.id), batch);
        self.taken += count;
    }

    pub(super) fn ended(&mut self, delivery: &Delivery, outcome: &Outcome, now: Instant) -> Option<Duration> {
        let endpoint = &delivery.endpoint;
        self.in_flight -= 1;
        if let Some(organization) = self.organizations.get_mut(endpoint.organization()) {
            organization.in_flight -= 1;
        }
        if let Some(queue) = self.endpoints.get_mut(endpoint) {
            queue.in_flight -= 1;
            queue.unrecorded += 1;
            queue.last_progress = Some(now);
        }
        let pause = self.note_health(delivery, outcome, now);
        if !outcome.is_recorded() {
            self.changes.dropped.insert(endpoint.clone());
            self.recorded(delivery);
            return None;
        }
        self.recount(endpoint);
        self.want_refill(endpoint);
        self.join_turn(endpoint);
        self.organization_joins_turn(endpoint.organization());
        pause
    }

    pub(super) fn recorded(&mut self, delivery: &Delivery) {
        let endpoint = &delivery.endpoint;
        if let Some(queue) = self.endpoints.get_mut(endpoint) {
            queue.unrecorded = queue.unrecorded.saturating_sub(1);
        }
        self.leave(delivery);
        self.recount(endpoint);
        self.want_refill(endpoint);
        self.join_turn(endpoint);
        self.organization_joins_turn(endpoint.organization());
        self.forget_idle(endpoint);
    }

    /// A delivery leaves memory.
    fn leave(&mut self, delivery: &Delivery) {
        let (batch, endpoint) = (&delivery.batch, &delivery.endpoint);
        self.taken -= 1;
        let payload = delivery.message.body.len();
        self.bytes.remove(payload);
        if let Some(queue) = self.endpoints.get_mut(endpoint) {
            queue.bytes.remove(payload);
        }
        if let Some(organization) = self.organizations.get_mut(endpoint.organization()) {
            organization.taken -= 1;
            organization.bytes.remove(payload);
        }
        if batch.remove(1) == 0 {
            self.batches.remove(&batch.id);
            if let Some(left) = &mut self.left_since_look {
                left.insert(Arc::clone(&batch.id));
            }
            if let Some(queue) = self.endpoints.get_mut(endpoint) {
                queue.batches.remove(&batch.id);
                queue.partial.take_if(|partial| partial.batch == batch.id);
            }
        }
        self.changes.freed = true;
    }

    pub(super) fn drop_unsent(&mut self, endpoint: &EndpointKey) {
        let Some(queue) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        queue.partial = None;
        let unsent = std::mem::take(&mut queue.unsent);
        self.drop_deliveries(endpoint, &unsent);
    }

    /// These were the endpoint's unsent deliveries, or those of a class: they leave memory.
    pub(super) fn drop_deliveries(&mut self, endpoint: &EndpointKey, unsent: &Unsent) {
        if unsent.is_empty() {
            return;
        }
        unsent.iter().for_each(|delivery| self.leave(delivery));
        // A batch of which some are in flight is continued where it was dropped.
        let mut fronts = unsent.fronts();
        let first = fronts.find(|(front, _)| self.batches.contains_key(&front.batch.id));
        if let (Some((first, class)), Some(queue)) = (first, self.endpoints.get_mut(endpoint)) {
            let partial = Partial::new(&first.batch.id, first.index, class);
            queue.partial.get_or_insert(partial);
        }
        self.changes.dropped.insert(endpoint.clone());
        self.recount(endpoint);
        self.forget_idle(endpoint);
    }

    pub(super) fn drop_stuck(&mut self, now: Instant, after: Duration) {
        let is_stuck = |queue: &EndpointQueue| {
            !queue.unsent.is_empty()
                && queue
                    .last_progress
                    .is_some_and(|moved| now.duration_since(moved) >= after)
        };
        let stuck: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(_, queue)| is_stuck(queue))
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        stuck.iter().for_each(|endpoint| self.drop_unsent(endpoint));
    }

    pub(super) fn drop_all_unsent(&mut self) {
        let endpoints: Vec<_> = self.endpoints.keys().cloned().collect();
        endpoints.iter().for_each(|endpoint| self.drop_unsent(endpoint));
    }

    pub(super) fn drain(&mut self, assigned: impl Fn(&EndpointKey) -> bool) -> Vec<EndpointKey> {
        let lost: Vec<_> = self
            .endpoints
            .keys()
            .filter(|endpoint| !assigned(endpoint))
            .cloned()
            .collect();
        lost.iter().for_each(|endpoint| self.drop_unsent(endpoint));
        self.breakers.retain(&assigned);
        self.paces.retain(&assigned, Instant::now());
        self.too_large.retain(|endpoint, _| assigned(endpoint));
        lost.into_iter()
            .filter(|endpoint| {
                self.endpoints
                    .get(endpoint)
                    .is_some_and(|queue| queue.in_flight + queue.unrecorded > 0)
            })
            .collect()
    }

    pub(super) fn exclude(&mut self, endpoint: &EndpointKey, batch: Arc<str>, until: Instant) {
        let queue = self.endpoints.entry(endpoint.clone()).or_default();
        queue.excluded.insert(batch, until);
    }

    pub(super) fn has_changes(&self) -> bool {
        self.changes.freed || !self.changes.refill.is_empty() || !self.changes.dropped.is_empty()
    }

    pub(super) fn drain_changes(&mut self) -> Changes {
        let now = Instant::now();
        let mut idle = Vec::new();
        for (endpoint, queue) in self
            .endpoints
            .iter_mut()
            .filter(|(_, queue)| !queue.excluded.is_empty())
        {
            queue.excluded.retain(|_, until| *until > now);
            if queue.is_idle() {
                idle.push(endpoint.clone());
            }
        }
        idle.iter().for_each(|endpoint| self.forget_idle(endpoint));
        std::mem::take(&mut self.changes)
    }

    fn want_refill(&mut self, endpoint: &EndpointKey) {
        let wants = |queue: &EndpointQueue| queue.active_before_background() <= queue.low;
        if self.endpoints.get(endpoint).is_some_and(wants) {
            self.changes.refill.insert(endpoint.clone());
        }
    }
}
