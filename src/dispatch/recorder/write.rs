//! Writing results, and what to do when they can't be written: see the kinds of errors in `store`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::{Observer, Recorder};
use crate::outbox::{Head, Settlement, Unrecorded};
use crate::store::{self, Backoff, Kind, Stopped};

/// MongoDB refused one batch while others were written less than this ago: the refusal is the batch's own.
const RECENT: Duration = Duration::from_secs(60);

/// Conflicts after which results are written endpoint by endpoint.
const CONFLICTS: usize = 2;

/// Results to be written together.
struct Group {
    settlements: Vec<Settlement>,
    counted: bool,
    conflicts: usize,
}

/// What is tried again after an error.
enum Again {
    AtOnce(Vec<Group>),
    AfterPause(Vec<Group>),
    WhenAvailable(Group),
}

impl<O: Observer> Recorder<O> {
    /// Writes results until they are written or refused. What is written with others is never held up by them for good.
    pub(super) async fn write(&mut self, settlements: Vec<Settlement>) -> Result<(), Stopped> {
        let mut backoff = Backoff::default();
        let mut tries = self.parts.store.outage().tries();
        let mut groups = vec![Group {
            settlements,
            counted: true,
            conflicts: 0,
        }];
        while let Some(group) = groups.pop() {
            let (began, now) = (Instant::now(), self.parts.clock.now());
            let error = match self.parts.outbox.record(&group.settlements, group.counted, now).await {
                Ok(retries) => {
                    tries.succeeded();
                    self.written(&group, retries);
                    continue;
                }
                Err(Unrecorded::Outdated) => {
                    groups.extend(self.reconcile(group).await?);
                    continue;
                }
                Err(Unrecorded::Statistics(error)) if is_own(&error) => {
                    groups.extend(self.without_statistics(group, &error));
                    continue;
                }
                Err(Unrecorded::Pauses(error)) if is_own(&error) => {
                    groups.push(without_pauses(group, &error));
                    continue;
                }
                Err(Unrecorded::Results(error) | Unrecorded::Statistics(error) | Unrecorded::Pauses(error)) => error,
            };
            match self.after_error(group, &error).await {
                Again::AtOnce(again) => {
                    groups.extend(again);
                    continue;
                }
                Again::AfterPause(again) => groups.extend(again),
                Again::WhenAvailable(group) => {
                    tries.failed("record results", &error, began);
                    groups.push(group);
                }
            }
            tokio::select! {
                () = self.parts.store.stopped() => return Err(Stopped),
                () = backoff.wait() => {}
            }
        }
        Ok(())
    }

    fn written(&mut self, group: &Group, retries: Vec<Head>) {
        self.succeeded = Some(Instant::now());
        self.done(&group.settlements);
        self.parts.waiting.add(retries);
        if !self.refused.is_empty() {
            let batches = group.settlements.iter().map(|one| &one.delivery.batch.id);
            batches.for_each(|id| self.refused.accepted(id));
        }
    }

    async fn after_error(&mut self, mut group: Group, error: &store::Error) -> Again {
        match error.kind() {
            Kind::Conflict if group.conflicts >= CONFLICTS => Again::AfterPause(by_endpoint(group)),
            Kind::Conflict => {
                group.conflicts += 1;
                Again::AfterPause(vec![group])
            }
            Kind::TooLarge | Kind::Refused if group.has_several_batches() => Again::AtOnce(group.halves().into()),
            Kind::TooLarge | Kind::Refused if self.is_refusal_its_own().await => {
                self.give_up(&group, error);
                Again::AtOnce(Vec::new())
            }
            _ => Again::WhenAvailable(group),
        }
    }

    /// Somebody else wrote to one of the batches: only what still counts is kept.
    async fn reconcile(&self, mut group: Group) -> Result<Option<Group>, Stopped> {
        let settlements = std::mem::take(&mut group.settlements);
        let reread = || self.parts.outbox.reconcile(settlements.clone());
        let kept = self.parts.store.persist("read batches again", reread).await?;
        let is_kept = |one: &Settlement| {
            kept.iter().any(|other| {
                other.delivery.batch.id == one.delivery.batch.id && other.delivery.index == one.delivery.index
            })
        };
        let dropped: Vec<_> = settlements.iter().filter(|one| !is_kept(one)).cloned().collect();
        self.done(&dropped);
        group.settlements = kept;
        Ok((!group.settlements.is_empty()).then_some(group))
    }

    /// The statistics are refused: for one endpoint they are left out, and the lost counts are named.
    fn without_statistics(&mut self, group: Group, why: &store::Error) -> Vec<Group> {
        let endpoint = &group.settlements[0].delivery.endpoint;
        if group.settlements.iter().any(|one| one.delivery.endpoint != *endpoint) {
            return by_endpoint(group);
        }
        self.lost.add(endpoint, group.settlements.len(), why, Instant::now());
        vec![Group {
            counted: false,
            ..group
        }]
    }

    /// Whether MongoDB writes other documents of the outbox: then what it refuses is refused for its own sake.
    async fn is_refusal_its_own(&self) -> bool {
        let recent = self.succeeded.is_some_and(|at| at.elapsed() < RECENT);
        recent || self.parts.outbox.probe().await.is_ok()
    }

    /// The results of one batch can't be recorded. It is sent again later, in the hope that it can be written then.
    fn give_up(&mut self, group: &Group, why: &store::Error) {
        let Some(first) = group.settlements.first() else { return };
        let (batch, endpoint) = (&first.delivery.batch, &first.delivery.endpoint);
        let (results, now) = (group.settlements.len(), Instant::now());
        let is_told = self.refused.has(&batch.id, now);
        let pause = self.refused.refused(Arc::clone(&batch.id), now);
        if !is_told {
            error!(
                organization = endpoint.organization(), endpoint = endpoint.endpoint(), delivery = %batch.id, results, error = %why,
                "MongoDB refuses to record results of this batch: the others go on, it is sent again in {} s", pause.as_secs()
            );
        }
        self.parts.queue.exclude(endpoint, Arc::clone(&batch.id), pause);
        self.done(&group.settlements);
    }
}

/// The pauses of endpoints are refused: this instance keeps them, others and its next start don't know of them.
fn without_pauses(mut group: Group, why: &store::Error) -> Group {
    for settlement in &mut group.settlements {
        if settlement.paused_until.take().is_some() {
            let endpoint = &settlement.delivery.endpoint;
            warn!(
                organization = endpoint.organization(), endpoint = endpoint.endpoint(), error = %why,
                "MongoDB refuses to note the Retry-After of an endpoint: it is kept, but neither by other instances nor after a restart"
            );
        }
    }
    group
}

/// Whether the error concerns these rows alone, and not MongoDB as a whole.
fn is_own(error: &store::Error) -> bool {
    matches!(error.kind(), Kind::Refused | Kind::Denied | Kind::TooLarge)
}

impl Group {
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

fn by_endpoint(mut group: Group) -> Vec<Group> {
    group
        .settlements
        .sort_by(|one, other| one.delivery.endpoint.cmp(&other.delivery.endpoint));
    group
        .settlements
        .chunk_by(|one, other| one.delivery.endpoint == other.delivery.endpoint)
        .map(|settlements| Group {
            settlements: settlements.to_vec(),
            counted: group.counted,
            conflicts: 0,
        })
        .collect()
}
