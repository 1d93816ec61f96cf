//! Writing results, and what to do when they can't be written: see the kinds of errors in `store`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::{Observer, Recorder};
use crate::model::EndpointKey;
use crate::outbox::{Head, Settlement, Unrecorded};
use crate::store::{self, Backoff, Kind, Stopped};

/// If others were written within this time, it is for its own content that MongoDB refuses a batch.
const RECENT: Duration = Duration::from_secs(60);

/// Conflicts after which results are written endpoint by endpoint.
const CONFLICTS: usize = 2;

/// Results that are written in one transaction.
pub(super) struct ResultSet {
    settlements: Vec<Settlement>,
    counted: bool,
    conflicts: usize,
}

/// What must still be written after one transaction.
enum Left {
    Nothing,
    /// These, without a pause, after the sets that wait already.
    AtOnce(Vec<ResultSet>),
    /// This, after a pause and after the sets that wait already.
    AfterPause(ResultSet),
    /// This, before the others, until MongoDB does it: after a pause each time.
    WhenAvailable(ResultSet, store::Error),
}

impl<O: Observer> Recorder<O> {
    /// Writes results until they are written or refused, or kept as contended.
    pub(super) async fn write(&mut self, sets: Vec<ResultSet>) -> Result<(), Stopped> {
        let mut backoff = Backoff::default();
        let mut reporter = self.parts.store.outage().reporter();
        let mut sets = VecDeque::from(sets);
        while let Some(set) = sets.pop_front() {
            let began = Instant::now();
            match self.write_set(set).await? {
                Left::Nothing => {
                    reporter.succeeded();
                    continue;
                }
                Left::AtOnce(left) => {
                    sets.extend(left);
                    continue;
                }
                Left::AfterPause(set) => sets.push_back(set),
                Left::WhenAvailable(set, error) => {
                    reporter.failed("record results", &error, began);
                    sets.push_front(set);
                }
            }
            tokio::select! {
                () = self.parts.store.stopped() => return Err(Stopped),
                () = backoff.wait() => {}
            }
        }
        Ok(())
    }

    async fn write_set(&mut self, set: ResultSet) -> Result<Left, Stopped> {
        let now = self.parts.clock.now();
        Ok(
            match self.parts.outbox.record(&set.settlements, set.counted, now).await {
                Ok(retries) => {
                    self.written(&set, retries);
                    Left::Nothing
                }
                Err(Unrecorded::Outdated) => Left::AtOnce(self.reconcile(set).await?.into_iter().collect()),
                Err(Unrecorded::Statistics(error)) if can_go_without(&error) => {
                    Left::AtOnce(self.without_statistics(set, &error))
                }
                Err(Unrecorded::Notes(error)) if can_go_without(&error) => Left::AtOnce(without_notes(set, &error)),
                Err(Unrecorded::Results(error) | Unrecorded::Statistics(error) | Unrecorded::Notes(error)) => {
                    self.after_error(set, error).await
                }
            },
        )
    }

    fn written(&mut self, set: &ResultSet, retries: Vec<Head>) {
        self.succeeded = Some(Instant::now());
        self.done(&set.settlements);
        self.parts.waiting.add(retries);
        self.note_deaths(&set.settlements);
        if !self.refused.is_empty() {
            let batches = set.settlements.iter().map(|one| &one.delivery.batch.id);
            batches.for_each(|id| self.refused.accepted(id));
        }
    }

    async fn after_error(&mut self, mut set: ResultSet, error: store::Error) -> Left {
        match error.kind() {
            Kind::Conflict if !set.has_several_batches() => {
                self.contended.add(set, &error);
                Left::Nothing
            }
            Kind::Conflict if !set.has_several_endpoints() => Left::AtOnce(set.halves().into()),
            Kind::Conflict if set.conflicts >= CONFLICTS => Left::AtOnce(by_endpoint(set)),
            Kind::Conflict => {
                set.conflicts += 1;
                Left::AfterPause(set)
            }
            Kind::TooLarge | Kind::Refused if set.has_several_batches() => Left::AtOnce(set.halves().into()),
            Kind::TooLarge | Kind::Refused if self.is_refusal_its_own().await => {
                self.give_up(&set, &error);
                Left::AtOnce(Vec::new())
            }
            _ => Left::WhenAvailable(set, error),
        }
    }

    /// Somebody else wrote to one of the batches: only what is still needed is kept.
    async fn reconcile(&self, mut set: ResultSet) -> Result<Option<ResultSet>, Stopped> {
        let settlements = std::mem::take(&mut set.settlements);
        let reread = || self.parts.outbox.reconcile(settlements.clone());
        let (kept, dropped) = self.parts.store.persist("read batches again", reread).await?;
        self.done(&dropped);
        // It may have been this instance itself, by a commit that was said to have failed.
        self.note_deaths(&dropped);
        set.settlements = kept;
        Ok((!set.settlements.is_empty()).then_some(set))
    }

    fn note_deaths(&self, settlements: &[Settlement]) {
        for settlement in settlements.iter().filter(|one| one.must_tell_death) {
            self.parts.died.add(settlement.delivery.endpoint.clone());
        }
    }

    /// The statistics are refused: for one endpoint they are left out, and the uncounted results are logged.
    fn without_statistics(&mut self, set: ResultSet, why: &store::Error) -> Vec<ResultSet> {
        if set.has_several_endpoints() {
            return by_endpoint(set);
        }
        let endpoint = &set.settlements[0].delivery.endpoint;
        self.uncounted.add(endpoint, set.settlements.len(), why, Instant::now());
        vec![ResultSet { counted: false, ..set }]
    }

    /// Whether MongoDB writes other documents of the outbox: then what it refuses is refused for its own content.
    async fn is_refusal_its_own(&self) -> bool {
        let recent = self.succeeded.is_some_and(|at| at.elapsed() < RECENT);
        recent || self.parts.outbox.probe(self.parts.clock.now()).await.is_ok()
    }

    /// The results of one batch can't be recorded. The batch is sent again later.
    fn give_up(&mut self, set: &ResultSet, why: &store::Error) {
        let Some(first) = set.settlements.first() else { return };
        let (batch, endpoint) = (&first.delivery.batch, &first.delivery.endpoint);
        let results = set.settlements.len();
        let now = Instant::now();
        let is_logged = self.refused.has(&batch.id, now);
        let pause = self.refused.refused(Arc::clone(&batch.id), now);
        if !is_logged {
            error!(
                organization = endpoint.organization(), endpoint = endpoint.endpoint(), delivery = %batch.id, results, error = %why,
                "MongoDB refuses to record results of this batch: the others go on, it is sent again in {} s", pause.as_secs()
            );
        }
        self.parts.queue.exclude(endpoint, Arc::clone(&batch.id), pause);
        self.done(&set.settlements);
    }
}

/// What results say of their endpoints is refused: this instance keeps the pauses, others and its next start don't know of them.
fn without_notes(mut set: ResultSet, why: &store::Error) -> Vec<ResultSet> {
    if set.has_several_endpoints() {
        return by_endpoint(set);
    }
    for settlement in &mut set.settlements {
        let endpoint = &settlement.delivery.endpoint;
        if std::mem::take(&mut settlement.must_tell_death) {
            warn!(
                organization = endpoint.organization(), endpoint = endpoint.endpoint(), error = %why,
                "MongoDB refuses to note a dead letter for the platform: it is kept, and the platform is not told of it"
            );
        }
        if settlement.paused_until.take().is_some() {
            warn!(
                organization = endpoint.organization(), endpoint = endpoint.endpoint(), error = %why,
                "MongoDB refuses to note the Retry-After of an endpoint: this instance keeps it until it ends, the others send at once"
            );
        }
    }
    vec![set]
}

/// Whether it is useless to repeat it, so that results are written without these documents.
fn can_go_without(error: &store::Error) -> bool {
    matches!(error.kind(), Kind::Refused | Kind::Denied | Kind::TooLarge)
}

impl ResultSet {
    pub(super) fn new(settlements: Vec<Settlement>) -> Self {
        Self {
            settlements,
            counted: true,
            conflicts: 0,
        }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &EndpointKey> {
        self.settlements.iter().map(|one| &one.delivery.endpoint)
    }

    /// The batch of the first.
    pub(super) fn batch(&self) -> &str {
        &self.settlements[0].delivery.batch.id
    }

    pub(super) fn len(&self) -> usize {
        self.settlements.len()
    }

    fn has_several_endpoints(&self) -> bool {
        let first = &self.settlements[0].delivery.endpoint;
        self.endpoints().any(|endpoint| endpoint != first)
    }

    fn has_several_batches(&self) -> bool {
        let first = &self.settlements[0].delivery.batch.id;
        self.settlements.iter().any(|one| one.delivery.batch.id != *first)
    }

    /// Two halves; results of one batch stay together.
    fn halves(mut self) -> [Self; 2] {
        self.settlements
            .sort_by(|one, other| one.delivery.batch.id.cmp(&other.delivery.batch.id));
        let id = |one: &Settlement| Arc::clone(&one.delivery.batch.id);
        let middle = id(&self.settlements[self.settlements.len() / 2]);
        let mut cut = self.settlements.partition_point(|one| id(one) < middle);
        if cut == 0 {
            cut = self.settlements.partition_point(|one| id(one) <= middle);
        }
        let rest = self.settlements.split_off(cut);
        let half = |settlements| Self {
            settlements,
            counted: self.counted,
            conflicts: 0,
        };
        [half(self.settlements), half(rest)]
    }
}

fn by_endpoint(mut set: ResultSet) -> Vec<ResultSet> {
    set.settlements
        .sort_by(|one, other| one.delivery.endpoint.cmp(&other.delivery.endpoint));
    set.settlements
        .chunk_by(|one, other| one.delivery.endpoint == other.delivery.endpoint)
        .map(|settlements| ResultSet {
            settlements: settlements.to_vec(),
            counted: set.counted,
            conflicts: 0,
        })
        .collect()
}
