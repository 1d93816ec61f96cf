//! What waits for an endpoint that is held, suspended or out of service is a dead letter after `delivery.wait_for`.
//!
//! The instance to which the endpoint is assigned ends it, in steps of at most 100 documents. It rests after each step as long as the
//! step took, so that this takes at most half of the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use humantime::format_duration;
use mongodb::Cursor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::Engine;
use super::upkeep::MOST_REFUSED;
use crate::dispatch::EndpointState;
use crate::failpoint;
use crate::model::{EndpointKey, earlier};
use crate::outbox::{Death, Ended, Waited, all_states, endpoint_of_state};
use crate::store::{Error, Kind, Pauses, Result};

/// Documents per transaction.
const STEP: usize = 100;

/// The longest time between two rounds. It is a hundredth of `delivery.wait_for` where that is less.
const LOOK: Duration = Duration::from_secs(60);

/// The shortest time between two rounds.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);

/// Ends what has waited too long, until `stop`.
pub(super) async fn end_waiting(engine: Arc<Engine>, stop: CancellationToken) {
    let mut refused = Pauses::default();
    let mut reporter = engine.store.outage().reporter();
    loop {
        let wait_for = engine.settings.config.get().delivery.wait_for;
        let pause = (wait_for / 100).clamp(SHORTEST_LOOK, LOOK);
        let rest = tokio::time::sleep(reporter.rest(pause));
        if stop.run_until_cancelled(rest).await.is_none() {
            return;
        }
        let began = Instant::now();
        let done = run_once(&engine, wait_for, &mut refused, &stop).await;
        reporter.ended("end what has waited too long", began, &done);
    }
}

async fn run_once(
    engine: &Engine,
    wait_for: Duration,
    refused: &mut Pauses<EndpointKey>,
    stop: &CancellationToken,
) -> Result<()> {
    let since = earlier(engine.clock.now(), wait_for);
    for endpoint in waiting_since(engine, since).await? {
        let began = Instant::now();
        if stop.is_cancelled() || refused.has(&endpoint, began) {
            continue;
        }
        let Some(why) = why_waiting(engine, &endpoint) else {
            continue;
        };
        let reason = format!("waited {} for an endpoint that is {why}", in_words(wait_for));
        let mut ending = Ending {
            engine,
            endpoint: &endpoint,
            since,
            reason: &reason,
            deliveries: 0,
            refusals: 0,
            uncounted: None,
            is_told: engine.directory.tells_of_endpoints() && !endpoint.is_own(),
        };
        let ended = ending.run(stop).await;
        ending.log();
        match ended {
            Ok(()) => refused.accepted(&endpoint),
            Err(error) if error.kind().is_general() => return Err(error),
            // The next round finds it again.
            Err(error) if error.kind() == Kind::Conflict => {
                debug!(%endpoint, %error, "what has waited too long can't be ended now")
            }
            Err(error) => {
                let pause = refused.refused(endpoint.clone(), began).as_secs();
                error!(%endpoint, %error, "what has waited too long for this endpoint can't be ended: it waits on, tried again in {pause} s, the other endpoints go on");
            }
        }
    }
    Ok(())
}

/// The endpoints that have not been served since then or longer, as `webhook_state` notes it: never before they stopped being served.
async fn waiting_since(engine: &Engine, since: DateTime) -> Result<Vec<EndpointKey>> {
    let mut filter = all_states();
    filter.insert("waitingSince", doc! { "$lte": since });
    let state = engine.store.state();
    let found = state.find(filter).projection(doc! { "_id": 1 }).await?;
    let found: Vec<Document> = found.try_collect().await?;
    Ok(found.iter().filter_map(endpoint_of_state).collect())
}

/// What an endpoint of this instance is, for which deliveries wait.
fn why_waiting(engine: &Engine, endpoint: &EndpointKey) -> Option<&'static str> {
    match engine.endpoint_state(endpoint) {
        EndpointState::Held => Some("held"),
        EndpointState::OutOfService => Some("out of service"),
        EndpointState::Suspended { .. } => Some("suspended"),
        // What waits for the proxy waits as for MongoDB: however long that takes.
        EndpointState::Served
        | EndpointState::ProxyUnavailable
        | EndpointState::Off(_)
        | EndpointState::NotAssigned => None,
    }
}

/// `30 d`, or as the configuration says it.
fn in_words(time: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    match time.as_secs() {
        seconds if seconds >= DAY && seconds.is_multiple_of(DAY) => format!("{} d", seconds / DAY),
        _ => format_duration(time).to_string(),
    }
}

/// One endpoint in one round.
struct Ending<'a> {
    engine: &'a Engine,
    endpoint: &'a EndpointKey,
    since: DateTime,
    reason: &'a str,
    /// How many were ended.
    deliveries: u64,
    refusals: usize,
    /// Why the statistics don't count them.
    uncounted: Option<Error>,
    /// Whether the platform is told of them.
    is_told: bool,
}

impl Ending<'_> {
    async fn run(&mut self, stop: &CancellationToken) -> Result<()> {
        let due = self.engine.outbox.due_before(self.endpoint, self.since).await?;
        self.end(due, stop).await?;
        if matches!(
            self.engine.endpoint_state(self.endpoint),
            EndpointState::Suspended { .. }
        ) {
            let probed = self.engine.outbox.probed_with(self.endpoint, self.since).await?;
            self.end(probed, stop).await?;
        }
        Ok(())
    }

    async fn end(&mut self, mut due: Cursor<RawDocumentBuf>, stop: &CancellationToken) -> Result<()> {
        let mut alone = Vec::new();
        while let Some(document) = due.try_next().await? {
            if stop.is_cancelled() {
                return Ok(());
            }
            let Some(waited) = Waited::read(&document).filter(|waited| waited.since <= self.since) else {
                continue;
            };
            if waited.is_batch {
                self.step(vec![waited]).await?;
            } else {
                alone.push(waited);
            }
            if alone.len() >= STEP {
                self.step(std::mem::take(&mut alone)).await?;
            }
        }
        self.step(alone).await
    }

    /// One step, and again without the document that MongoDB refuses to change, unless there are many of them.
    async fn step(&mut self, mut waited: Vec<Waited>) -> Result<()> {
        while !waited.is_empty() && why_waiting(self.engine, self.endpoint).is_some() {
            let began = Instant::now();
            let death = Death {
                reason: self.reason,
                now: self.engine.clock.now(),
                is_counted: self.uncounted.is_none(),
                is_told: self.is_told,
            };
            let outbox = &self.engine.outbox;
            match outbox.end_waiting(self.endpoint, &waited, self.since, death).await {
                Ok(Ended::Deliveries(deliveries)) => {
                    self.deliveries += deliveries;
                    self.engine.tally.counts.add_dead(self.endpoint, deliveries);
                    if self.is_told && deliveries > 0 {
                        self.engine.died.add(self.endpoint.clone());
                    }
                    failpoint::reach("waiting-ended");
                    tokio::time::sleep(began.elapsed()).await;
                    return Ok(());
                }
                Ok(Ended::Refused(error)) => {
                    self.refusals += 1;
                    if self.refusals > MOST_REFUSED {
                        return Err(error);
                    }
                    waited.retain(|one| !outbox.is_left_alone(self.endpoint, &one.id));
                }
                Ok(Ended::Untold(error)) => self.untold(&error),
                Err(error) if !error.kind().is_refusal() => {
                    // The commit may have been made without a reply. Where none is dead the platform is told of none.
                    if self.is_told {
                        self.engine.died.add(self.endpoint.clone());
                    }
                    return Err(error);
                }
                Err(error) if self.uncounted.is_none() => self.uncounted = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn untold(&mut self, error: &Error) {
        self.is_told = false;
        warn!(
            organization = self.endpoint.organization(), endpoint = self.endpoint.endpoint(), %error,
            "MongoDB refuses to note a dead letter for the platform: it is kept, and the platform is not told of it"
        );
    }

    fn log(&mut self) {
        let (endpoint, deliveries) = (self.endpoint, self.deliveries);
        if deliveries == 0 {
            return;
        }
        if let Some(error) = self.uncounted.take() {
            error!(%endpoint, deliveries, %error, "MongoDB refuses the statistics: these dead letters are not counted in webhook_stats");
        }
        error!(
            organization = endpoint.organization(),
            endpoint = endpoint.endpoint(),
            deliveries,
            reason = self.reason,
            "dead letters: they waited as long as delivery.wait_for allows; kept, `certhookd replay` sends them"
        );
    }
}
