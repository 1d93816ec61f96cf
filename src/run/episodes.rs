//! Writing down what is remembered of endpoints that fail, and telling the platform of it: the changes of many endpoints in one
//! transaction with the notices about them.

mod dead_letters;
mod save;
mod write;

pub(super) use save::tell;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::DateTime;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Engine;
use crate::dispatch::EndpointState;
use crate::failpoint;
use crate::model::{Dues, EndpointKey, later, time_until};
use crate::notices::Terms;
use crate::store::{Error, Kind, Pauses, Result};

/// Rounds begin this far apart, however much changes.
const EVERY: Duration = Duration::from_secs(1);

/// The platform is told of an endpoint's dead letters this often, at most.
pub(super) const DEAD_EVERY: Duration = Duration::from_secs(3600);

/// Endpoints per transaction, at most.
const AT_ONCE: usize = 100;

/// Endpoints whose documents MongoDB may refuse to change before the round ends.
const MOST_REFUSED: usize = 20;

/// While some endpoint fails, whether connections can be made at all is checked at least this often.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Writes until `stop`.
pub(super) async fn keep(engine: Arc<Engine>, stop: CancellationToken) {
    let mut keeper = Keeper::new(engine);
    let mut reporter = keeper.engine.store.outage().reporter();
    let mut directory = keeper.engine.directory.subscribe();
    let every = failpoint::limit("episodes", EVERY);
    let mut followed = None;
    while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        let next = reporter.rest(keeper.next());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(next) => {}
            () = keeper.engine.episodes.changed().notified() => {}
            // Only wakes up: `untold` removes those that are assigned to this instance.
            endpoint = keeper.engine.died.next() => keeper.engine.died.add(endpoint),
            _ = directory.changed() => {}
        }
        let configured = Some(*directory.borrow_and_update());
        keeper.follow_configuration(followed != configured);
        followed = configured;
        let began = Instant::now();
        let done = keeper.run_once(began).await;
        reporter.ended("write down which endpoints fail", began, &done);
    }
}

struct Keeper {
    engine: Arc<Engine>,
    /// When the platform may be told of dead letters.
    dead: Dues<DateTime>,
    /// Endpoints whose documents MongoDB refuses to change.
    refused: Pauses<(What, EndpointKey)>,
    dead_every: Duration,
}

impl Keeper {
    fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            dead: Dues::default(),
            refused: Pauses::default(),
            dead_every: failpoint::limit("dead-notices", DEAD_EVERY),
        }
    }

    /// The next round begins after this time at the latest.
    fn next(&self) -> Duration {
        let engine = &self.engine;
        let now = engine.clock.now();
        let next = engine.episodes.tick(now).into_iter().chain(self.dead.next()).min();
        let is_idle = engine.episodes.is_empty() && next.is_none();
        let longest = if is_idle { Duration::MAX } else { CHECK_EVERY };
        next.map_or(longest, |next| time_until(next, now).min(longest))
    }

    /// Ends the suspensions of endpoints whose configuration has changed, of `all` or of those that have begun to fail since: it may change
    /// while the endpoint is assigned to another instance, and while an attempt is on its way.
    fn follow_configuration(&self, all: bool) {
        let engine = &self.engine;
        let is_off = |endpoint: &EndpointKey| matches!(engine.endpoint_state(endpoint), EndpointState::Off(_));
        let fingerprint = |endpoint: &EndpointKey| engine.directory.fingerprint(endpoint);
        engine.episodes.follow(all, is_off, fingerprint, engine.clock.now());
    }

    async fn run_once(&mut self, began: Instant) -> Result<()> {
        let (engine, now) = (Arc::clone(&self.engine), self.engine.clock.now());
        match engine.episodes.update_cut_off() {
            Some(true) => error!(
                "no connection can be made to nine of ten organizations: the fault is on this side; deliveries are retried, and failures to connect count for no endpoint until that is over"
            ),
            Some(false) => info!("connections to organizations can be made again"),
            None => {}
        }
        engine.episodes.tick(now);
        Self::wake(&engine, now);
        let unsaved = engine.episodes.unsaved(|endpoint| engine.cluster.is_assigned(endpoint));
        let episodes = self.write(What::Episodes, unsaved, began).await;
        // What others have written ends suspensions, too.
        Self::wake(&engine, now);
        // They are in other documents: episodes that are refused are no reason to be silent about them.
        let untold = self.untold(now);
        let dead_letters = self.write(What::DeadLetters, untold, began).await;
        episodes.and(dead_letters)
    }

    /// Something may be sent to endpoints that are to be probed, or are not suspended any more.
    fn wake(engine: &Engine, now: DateTime) {
        let woken = engine.episodes.drain_woken(now);
        if woken
            .iter()
            .any(|endpoint| engine.episodes.suspended(endpoint, now).is_none())
        {
            engine.redrive_now.notify_one();
            // What is due later, too, and what the fetcher comes upon and forgets at this moment.
            engine.waiting.look_soon();
        }
        engine.waiting.endpoints_may_have_more(woken);
    }

    /// The endpoints of whose dead letters the platform may be told at `now`.
    fn untold(&mut self, now: DateTime) -> Vec<EndpointKey> {
        let engine = &self.engine;
        let is_assigned = |endpoint: &EndpointKey| engine.cluster.is_assigned(endpoint);
        for endpoint in engine.died.drain_if(is_assigned) {
            self.dead.set_if_none(&endpoint, now);
        }
        self.dead.bring_forward(later(now, DEAD_EVERY), now);
        let (due, foreign): (Vec<_>, Vec<_>) = self.dead.due(now).into_iter().partition(is_assigned);
        foreign.iter().for_each(|endpoint| self.dead.set(endpoint, None));
        due
    }

    /// Writes what there is to write of these endpoints, [`AT_ONCE`] in one transaction. What MongoDB does not write because of one of
    /// them is written in halves, down to that one.
    ///
    /// # Errors
    /// One that is no endpoint's own. The next round writes what is left.
    async fn write(&mut self, what: What, mut endpoints: Vec<EndpointKey>, began: Instant) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        endpoints.retain(|endpoint| !self.refused.has(&(what, endpoint.clone()), began));
        let mut parts: Vec<_> = endpoints.chunks(AT_ONCE).map(<[_]>::to_vec).collect();
        let mut refusals = 0;
        while let Some(mut part) = parts.pop() {
            part.retain(|endpoint| engine.cluster.is_assigned(endpoint));
            if part.is_empty() {
                continue;
            }
            let written = match what {
                What::Episodes => self.save(&part).await,
                What::DeadLetters => self.tell_of_dead_letters(&part).await,
            };
            match written {
                Ok(left) => {
                    self.accept(what, &part);
                    parts.extend((!left.is_empty()).then_some(left));
                }
                // MongoDB as a whole is concerned, whatever is written.
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Denied | Kind::Authentication) => {
                    return Err(error);
                }
                Err(_) if part.len() > 1 => {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                }
                // Somebody else has written: the next round reads it again.
                Err(error) if error.kind() == Kind::Conflict => engine.episodes.changed().notify_one(),
                Err(error) => {
                    self.refuse(what, part, &error, began);
                    refusals += 1;
                    if refusals >= MOST_REFUSED {
                        engine.episodes.changed().notify_one();
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, what: What, endpoints: &[EndpointKey]) {
        if self.refused.is_empty() {
            return;
        }
        for endpoint in endpoints {
            self.refused.accepted(&(what, endpoint.clone()));
        }
    }

    fn refuse(&mut self, what: What, endpoints: Vec<EndpointKey>, error: &Error, began: Instant) {
        for endpoint in endpoints {
            let pause = self.refused.refused((what, endpoint.clone()), began);
            let seconds = pause.as_secs();
            match what {
                What::Episodes => {
                    error!(%endpoint, %error, "MongoDB refuses to write down that an endpoint fails, and the notice of it: this instance remembers it and tries again in {seconds} s");
                }
                What::DeadLetters => {
                    self.dead.set(&endpoint, Some(later(self.engine.clock.now(), pause)));
                    error!(%endpoint, %error, "MongoDB refuses to write down that the platform is told of an endpoint's dead letters: tried again in {seconds} s");
                }
            }
        }
    }

    fn terms(&self) -> Terms {
        let config = self.engine.settings.config.get();
        Terms {
            suspend_after: config.delivery.suspend_after,
            redrive_for: config.delivery.redrive_for,
            probe_every: self.engine.episodes.probe_every(),
        }
    }
}

/// What is written of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Episodes,
    DeadLetters,
}
