//! The fetcher: reads what waits in the outbox into the delivery queue. Nothing else fills memory.

mod looks;
mod plan;
mod starved;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::admission::Granted;
use super::endpoint_set::EndpointSet;
use super::queue::DeliveryQueue;
use super::waiting::Waiting;
use crate::failpoint;
use crate::model::{Clock, Dues, EndpointKey, time_until};
use crate::outbox::{Class, Fetched, Head, Outbox, Unreadable};
use crate::store::{Pauses, Stopped, Store};

use looks::{LookResult, Looks};
use plan::Plan;
use starved::Starved;

/// An endpoint that got no slots asks again after this time, even if none was freed.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What is done with the deliveries of an endpoint now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// This instance sends them.
    Served,
    /// They wait: its document makes no sense.
    OutOfService,
    /// They wait: somebody said so.
    Held,
    /// They wait: the endpoint has failed for long, or is gone. One may be sent, if `is_probe_due`.
    Suspended { is_probe_due: bool },
    /// They wait: the proxy that leads to it is unavailable.
    ProxyUnavailable,
    /// It is switched off or deleted, for this reason: they are cancelled.
    Off(&'static str),
    /// They are another instance's.
    NotAssigned,
}

impl EndpointState {
    /// Whether something of the endpoint is fetched.
    fn is_fetched(&self) -> bool {
        matches!(self, Self::Served | Self::Suspended { is_probe_due: true })
    }
}

/// What the fetcher asks of endpoints and instances.
pub trait Overview: Send + Sync {
    /// What is done with deliveries of that endpoint now. Notes that they wait, or no longer: an endpoint that is served again is sent to
    /// gently at first.
    fn judge(&self, endpoint: &EndpointKey) -> EndpointState;

    /// Whether other instances are alive, which may append something and fail to tell of it.
    fn has_other_instances(&self) -> bool;
}

/// Reads deliveries into the queue.
pub struct Fetcher {
    outbox: Outbox,
    store: Store,
    queue: DeliveryQueue,
    waiting: Waiting,
    clock: Clock,
    overview: Box<dyn Overview>,
    /// Endpoints that are off, for which something waits.
    off: EndpointSet,
    starved: Starved,
    /// Endpoints that are only probed or paused, by when.
    paused: Dues<Instant>,
    /// Batches that can't be read, and that MongoDB refuses to set aside.
    refused: Pauses<Bson>,
    looks: Looks,
}

impl Fetcher {
    /// Endpoints that are off and for which something waits are added to `off`.
    pub fn new(
        outbox: Outbox,
        store: Store,
        queue: DeliveryQueue,
        waiting: Waiting,
        clock: Clock,
        overview: impl Overview + 'static,
        off: EndpointSet,
    ) -> Self {
        Self {
            outbox,
            store,
            queue,
            waiting,
            clock,
            overview: Box::new(overview),
            off,
            starved: Starved::default(),
            paused: Dues::default(),
            refused: Pauses::default(),
            looks: Looks::new(),
        }
    }

    /// Fetches until `stop`. `progress` is called after every round.
    pub async fn run(mut self, stop: CancellationToken, progress: impl Fn()) {
        while !stop.is_cancelled() {
            let Ok(next) = self.run_once(self.clock.now()).await else {
                return;
            };
            progress();
            tokio::select! {
                () = stop.cancelled() => return,
                // What was asked for since the last time is remembered.
                () = self.queue.fetch_wanted().notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Looks at all queues, if it is time, and fetches what may be fetched. Returns when to do so again, at the latest.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops while MongoDB is unavailable.
    async fn run_once(&mut self, now: DateTime) -> Result<Instant, Stopped> {
        if self.waiting.take_look_soon() {
            self.looks.bring_forward();
        }
        if self.waiting.take_look() || self.looks.next() <= Instant::now() {
            self.look(now).await?;
        }
        let changes = self.queue.drain_changes();
        for endpoint in &changes.dropped {
            self.waiting.note_dropped(endpoint);
        }
        let next_due = self.waiting.advance(now);
        let changed = self.waiting.take_to_check(changes.refill);
        // Who has waited longest comes first: an endpoint that has just freed a slot would otherwise get it again and again.
        let mut endpoints = self.starved.drain(self.queue.spare());
        endpoints.extend(changed);
        endpoints.extend(self.unpaused());
        let wants = self.plan(endpoints, now);
        self.fetch(wants, now).await?;
        let due = next_due.map(|due| Instant::now() + time_until(due, self.clock.now()));
        let resumes = self.paused.next();
        let again = (!self.starved.is_empty()).then(|| Instant::now() + ASK_AGAIN);
        let next = [due, resumes, again].into_iter().flatten().min();
        let look = self.looks.next();
        Ok(next.map_or(look, |next| next.min(look)))
    }

    /// Looks which queues have something pending.
    async fn look(&mut self, now: DateTime) -> Result<(), Stopped> {
        // Only the time of the look that succeeded is rested from, not that of an outage before it.
        let look = || async {
            let began = Instant::now();
            self.queue.begin_look();
            Ok((self.outbox.look().await?, began.elapsed()))
        };
        let (mut looked, took) = self.store.persist("look for pending deliveries", look).await?;
        let found = self.keep_fetched(&mut looked.heads, looked.unreadable.is_empty());
        self.waiting.looked(looked.heads, now);
        self.queue.end_look();
        for (endpoint, class) in looked.unreadable.iter().filter_map(|one| one.queue.as_ref()) {
            if self.update_state(endpoint).is_fetched() {
                // What can be read after it may be due.
                self.waiting.note_more(endpoint, *class);
                self.waiting.retry_later(endpoint.clone());
            }
        }
        self.looks.ended(took, found, !self.overview.has_other_instances());
        if self.set_aside(&looked.unreadable, now).await {
            // More batches that can't be read may follow.
            self.looks.again_after(took);
        }
        Ok(())
    }

    /// Keeps the heads of endpoints of which something is fetched now. `is_all`: the look found nothing else.
    fn keep_fetched(&self, heads: &mut Vec<Head>, is_all: bool) -> LookResult {
        if heads.is_empty() && is_all {
            return LookResult::Nothing;
        }
        let mut is_work = !is_all;
        heads.retain(|head| {
            let state = self.update_state(&head.endpoint);
            // When a probe of a suspended one is due, it is told of: see `Waiting::endpoints_may_have_more`.
            is_work |= matches!(state, EndpointState::Served | EndpointState::Off(_));
            state.is_fetched()
        });
        match is_work {
            true => LookResult::Work,
            false => LookResult::Unsendable,
        }
    }

    /// The endpoint's state now. Forgets what waits for it where nothing is fetched, and has it cancelled where it is off.
    fn update_state(&self, endpoint: &EndpointKey) -> EndpointState {
        let state = self.overview.judge(endpoint);
        if let EndpointState::Off(_) = state {
            self.queue.forget(endpoint);
            self.off.add(endpoint.clone());
        }
        if !state.is_fetched() {
            self.waiting.forget(endpoint);
        }
        state
    }

    /// What to read: per endpoint, how many deliveries it may have, and where they are.
    fn plan(&mut self, endpoints: Vec<EndpointKey>, now: DateTime) -> Plan {
        let mut plan = Plan::default();
        let mut granted = Granted::default();
        let contenders = self.queue.contenders(&endpoints) + self.starved.answering();
        // Before it is asked which endpoints are this instance's.
        self.queue.begin_read();
        self.make_space(&endpoints, now);
        for endpoint in endpoints {
            if plan.granted.contains_key(&endpoint) || !self.update_state(&endpoint).is_fetched() {
                continue;
            }
            let answers = self.queue.answers(&endpoint);
            let slots = self.queue.admit(&endpoint, contenders, &granted);
            let memory = self.queue.in_memory(&endpoint);
            if slots == 0 {
                self.wait(endpoint, memory.batches.is_empty());
                continue;
            }
            let wants = self.waiting.choose(&endpoint, slots, !answers, &memory, now);
            if !wants.is_empty() {
                granted.add(&endpoint, slots, answers);
                plan.granted.insert(endpoint, slots);
                plan.wants.extend(wants);
            }
        }
        plan
    }

    /// Where slots or bytes are wanted in vain, what can't be sent soon gives way.
    fn make_space(&self, endpoints: &[EndpointKey], now: DateTime) {
        let no_slot = self.starved.is_pressing() && self.queue.spare().1 == 0;
        let no_byte = !self.starved.is_empty() && self.queue.spare_bytes() == 0;
        if no_slot || no_byte {
            self.queue.drop_stuck();
        }
        let asking = self.waiting.overtaking(endpoints, now);
        self.queue.drop_overtaken(&asking, !self.starved.is_empty());
    }

    /// An endpoint gets nothing now: until its next probe or the end of its pause, or until slots are freed. One that has something in
    /// memory asks again when it has used that up.
    fn wait(&mut self, endpoint: EndpointKey, has_nothing: bool) {
        if let Some(at) = self.queue.resumes_at(&endpoint).filter(|at| *at > Instant::now()) {
            self.paused.set(&endpoint, Some(at));
        } else if has_nothing {
            let answers = self.queue.answers(&endpoint);
            self.starved.add(endpoint, answers);
        }
    }

    /// Removes the endpoints that may get something again by now, and returns them.
    fn unpaused(&mut self) -> Vec<EndpointKey> {
        let resumed = self.paused.due(Instant::now());
        resumed.iter().for_each(|endpoint| self.paused.set(endpoint, None));
        resumed
    }

    async fn fetch(&mut self, plan: Plan, now: DateTime) -> Result<(), Stopped> {
        if plan.wants.is_empty() {
            return Ok(());
        }
        let budget = self.queue.spare_bytes().max(1);
        let fetch = || self.outbox.fetch(&plan.wants, now, budget);
        let read = self.store.persist("fetch deliveries", fetch).await?;
        failpoint::reach("fetched");
        self.set_aside(&read.unreadable, now).await;
        let asked = plan.next_asked();
        let cut = read.cut;
        let mut found: HashMap<EndpointKey, Vec<Fetched>> = HashMap::new();
        let mut of_queue: HashMap<(EndpointKey, Class), usize> = HashMap::new();
        for batch in read.batches {
            let endpoint = batch.batch.endpoint.clone();
            *of_queue.entry((endpoint.clone(), batch.class)).or_default() += 1;
            found.entry(endpoint).or_default().push(batch);
        }
        for ((endpoint, class), batches) in asked {
            let came = of_queue.get(&(endpoint.clone(), class)).copied().unwrap_or(0);
            if came < batches && !cut {
                self.waiting.exhausted(&endpoint, class);
            }
        }
        for (endpoint, slots) in plan.granted {
            let batches = found.remove(&endpoint);
            self.use_slots(endpoint, slots, batches, cut);
        }
        Ok(())
    }

    /// Enqueues what was read for an endpoint that got these slots. There may be more of it if the read was `cut`.
    fn use_slots(&mut self, endpoint: EndpointKey, slots: usize, batches: Option<Vec<Fetched>>, cut: bool) {
        let count = match batches {
            Some(batches) => self.enqueue(&endpoint, batches, slots),
            // Other classes may have something.
            None if !cut => return self.waiting.ask_for_more(&endpoint),
            None => {
                self.waiting.note_dropped(&endpoint);
                0
            }
        };
        if count == 0 {
            let answers = self.queue.answers(&endpoint);
            self.starved.add(endpoint, answers);
        } else if count * 2 < slots {
            self.waiting.ask_for_more(&endpoint);
        }
    }

    fn enqueue(&self, endpoint: &EndpointKey, mut batches: Vec<Fetched>, slots: usize) -> usize {
        batches.sort_by(|one, other| (one.due, &one.batch.id).cmp(&(other.due, &other.batch.id)));
        // The rest is left to what goes before these.
        let is_background = batches.iter().all(|batch| batch.class == Class::Background);
        let slots = if is_background { slots.div_ceil(2) } else { slots };
        let mut left = slots;
        for batch in batches {
            let class = batch.class;
            let first = batch.deliveries.first().map(|one| one.message.body.len());
            if left == 0 || first.is_some_and(|payload| !self.queue.has_space(endpoint, payload)) {
                self.waiting.note_more(endpoint, class);
                continue;
            }
            // A batch that is read in parts is recorded in parts: it is better read whole, if half of it has slots.
            let size = batch.deliveries.len();
            let limit = if left * 2 >= size { size } else { left };
            let id = Arc::clone(&batch.batch.id);
            let count = self.queue.enqueue(batch, limit);
            // It was refused, as while endpoints move: it waits before all that is known.
            if count == 0 && !self.queue.in_memory(endpoint).batches.contains(&id) {
                self.waiting.note_more(endpoint, class);
            }
            left = left.saturating_sub(count);
        }
        if let Some(partial) = self.queue.in_memory(endpoint).partial {
            self.waiting.note_partial(endpoint, partial.class);
        }
        slots - left
    }

    /// What can't be read is not looked at again and again. Returns whether something was set aside.
    async fn set_aside(&mut self, unreadable: &[Unreadable], now: DateTime) -> bool {
        let mut is_changed = false;
        for one in unreadable {
            let (began, delivery) = (std::time::Instant::now(), one.id.to_string());
            if self.refused.has(&one.id, began) {
                continue;
            }
            match self.outbox.set_aside(one, now).await {
                Ok(true) => {
                    is_changed = true;
                    warn!(delivery, reason = %one.reason, "a batch of deliveries can't be read: it is set aside as rejected, the others go on");
                }
                // Another instance has set it aside.
                Ok(false) => {}
                Err(error) if !error.kind().is_refusal() => {
                    debug!(delivery, %error, "a batch that can't be read is found again");
                }
                Err(error) => {
                    let pause = self.refused.refused(one.id.clone(), began);
                    error!(delivery, reason = %one.reason, %error, "a batch of deliveries can't be read, and MongoDB refuses to set it aside: it is left alone for {} s, the others go on", pause.as_secs());
                    if let (Some((endpoint, _)), Some(id)) = (&one.queue, one.id.as_str()) {
                        self.queue.exclude(endpoint, id.into(), pause);
                    }
                }
            }
        }
        is_changed
    }
}
