//! The change stream turned into events: `certificate_completed`.
//!
//! The position is saved in the transaction that appends the events before it, and now and then while nothing happens: the
//! token of a quiet collection ages out of the oplog.

mod position;
mod process;

use std::time::Duration;

use bson::DateTime;
use mongodb::change_stream::event::ResumeToken;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::stream::{Ending, Item, follow};
use super::transaction_size::TransactionSize;
use super::{Horizon, Rejections, missed_awards};
use crate::model::{Clock, Reloadable};
use crate::outbox::Outbox;
use crate::platform::Directory;
use crate::store::{Backoff, Reporter, Stopped, Store};

use position::{Position, Unsaved};
use process::Yielded;

/// Items of the stream that are processed together, at most.
const ITEMS: usize = 500;

/// The shortest time between two writes of the position by itself: of a quiet stream, which moves every five seconds, every other move.
const SAVE_EVERY: Duration = Duration::from_secs(9);

/// What the watch needs.
#[derive(Clone)]
pub struct Watch {
    pub store: Store,
    pub outbox: Outbox,
    pub directory: Directory,
    pub clock: Clock,
    /// How long the outbox remembers.
    pub retention: Duration,
    /// When the stream last yielded an event, or said that there is none.
    pub moved_at: Reloadable<Option<DateTime>>,
    pub rejections: Rejections,
    pub horizon: Horizon,
    pub(crate) transaction_size: TransactionSize,
}

/// A task that appends missed awards.
struct CatchingUp {
    /// How many accidents there were when it began.
    accidents: u32,
    /// Returns `false` if a later lease has moved the position.
    task: JoinHandle<Result<bool, Stopped>>,
}

impl Watch {
    #[allow(clippy::too_many_arguments, reason = "the parts, each once")]
    pub fn new(
        store: Store,
        outbox: Outbox,
        directory: Directory,
        clock: Clock,
        retention: Duration,
        moved_at: Reloadable<Option<DateTime>>,
        rejections: Rejections,
        horizon: Horizon,
    ) -> Self {
        Self {
            store,
            outbox,
            directory,
            clock,
            retention,
            moved_at,
            rejections,
            horizon,
            transaction_size: TransactionSize::default(),
        }
    }

    /// Makes sure that there is a position to go on from, whichever instance has the lease. What is awarded after this returns is found.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn begin(&self, lease: Option<i64>) -> Result<(), Stopped> {
        Position::load(&self.store, lease.unwrap_or(0), self.retention)
            .await
            .map(drop)
    }

    /// Watches under that lease until `stop`, through every accident, or until a later lease has moved the position. `progress` is
    /// called whenever the stream moves or fails.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable; nothing is lost, the position is as it was saved.
    pub async fn run(self, lease: i64, stop: CancellationToken, progress: impl Fn()) -> Result<(), Stopped> {
        let Some(mut position) = Position::load(&self.store, lease, self.retention).await? else {
            return Ok(());
        };
        self.moved_at.set(Some(position.at()));
        let mut backoff = Backoff::default();
        let mut reporter = self.store.outage().reporter();
        let mut catching_up = None;
        while !stop.is_cancelled() {
            self.start_catching_up(&position, &mut catching_up);
            let (items, receiver) = mpsc::channel(ITEMS);
            let (store, clock, start) = (self.store.clone(), self.clock.clone(), position.start());
            let given_up = stop.child_token();
            let stream = tokio::spawn(follow(store, clock, start, items, given_up.clone()));
            let before = position.at();
            let began = std::time::Instant::now();
            let ending = self
                .drain(
                    receiver,
                    &mut position,
                    &mut catching_up,
                    &mut reporter,
                    &stop,
                    &progress,
                )
                .await;
            given_up.cancel();
            let _ = stream.await;
            progress();
            match ending? {
                None => return Ok(()),
                Some(ending) => self.recover(ending, &mut position, &mut reporter, began).await?,
            }
            if position.at() > before {
                backoff = Backoff::default();
            }
            stop.run_until_cancelled(backoff.wait()).await;
        }
        self.save(&position).await.map(drop)
    }

    /// Prepares the position for the stream after the one that ended so.
    async fn recover(
        &self,
        ending: Ending,
        position: &mut Position,
        reporter: &mut Reporter,
        began: std::time::Instant,
    ) -> Result<(), Stopped> {
        match ending {
            Ending::Stopped => {}
            Ending::Broken(error) => reporter.failed("follow the change stream", &error, began),
            Ending::Invalidated => {
                warn!("the collection was dropped or renamed; starting afresh, missed completions are found by query");
                position.miss();
            }
            Ending::Lost(error) => {
                warn!(%error, "the change stream can't go on where it was; starting afresh, missed completions are found by query");
                position.lose(&self.store).await?;
            }
        }
        Ok(())
    }

    /// Saves the position at the end of a stream, and when it was last saved [`SAVE_EVERY`] ago. Returns whether the lease still
    /// holds.
    async fn save_if_due(
        &self,
        position: &Position,
        yielded: &Yielded,
        saved: &mut Option<Instant>,
    ) -> Result<bool, Stopped> {
        if yielded.has_awards() {
            // In the transaction that appended them.
            *saved = Some(Instant::now());
        }
        if yielded.ending.is_none() && saved.is_some_and(|saved| saved.elapsed() < SAVE_EVERY) {
            return Ok(true);
        }
        *saved = Some(Instant::now());
        self.save(position).await
    }

    /// Processes what the stream yields, many items at once, until it ends; `None` when a later lease has moved the position.
    async fn drain(
        &self,
        mut items: mpsc::Receiver<Item>,
        position: &mut Position,
        catching_up: &mut Option<CatchingUp>,
        reporter: &mut Reporter,
        stop: &CancellationToken,
        progress: &impl Fn(),
    ) -> Result<Option<Ending>, Stopped> {
        let mut received = Vec::with_capacity(ITEMS);
        let mut saved: Option<Instant> = None;
        loop {
            if items.recv_many(&mut received, ITEMS).await == 0 {
                let broke = mongodb::error::Error::custom("the task that reads the change stream broke");
                return Ok(Some(Ending::Broken(broke.into())));
            }
            let mut yielded = Yielded::default();
            received.drain(..).for_each(|item| yielded.add(item));
            if catching_up.as_ref().is_some_and(|walk| walk.task.is_finished()) {
                self.finish_catching_up(position, catching_up).await?;
            }
            if yielded.has_awards() && self.directory.up_to_date(stop.cancelled(), progress).await.is_err() {
                return Ok(Some(Ending::Stopped));
            }
            if !self.process(&yielded, position).await? {
                return Ok(None);
            }
            if yielded.is_open {
                reporter.succeeded();
            }
            if yielded.idle.is_some() || !yielded.changes.is_empty() {
                reporter.succeeded();
                self.moved_at.set(Some(self.clock.now()));
            }
            progress();
            if !self.save_if_due(position, &yielded, &mut saved).await? {
                return Ok(None);
            }
            if let Some(ending) = yielded.ending {
                return Ok(Some(ending));
            }
        }
    }

    /// Saves the position; `false` if a later lease has moved it.
    async fn save(&self, position: &Position) -> Result<bool, Stopped> {
        let save = || async {
            match position.save(&self.store).await {
                Ok(()) => Ok(true),
                Err(Unsaved::Superseded) => Ok(false),
                Err(Unsaved::Failed(error)) => Err(error),
            }
        };
        self.store.persist("save the stream's position", save).await
    }

    /// After an accident: reads by a query what happened since the stream last moved, while the new stream is followed. Waiting for
    /// it would let the new stream's start fall out of the oplog.
    fn start_catching_up(&self, position: &Position, catching_up: &mut Option<CatchingUp>) {
        let (Some(since), None) = (position.catch_up_from, &catching_up) else {
            return;
        };
        let accidents = position.accidents();
        let (watch, position) = (self.clone(), position.clone());
        let append = async move {
            let found = watch
                .store
                .persist("catch up with missed completions", || {
                    missed_awards::awards_since(&watch.store, since, |documents| {
                        watch.append_missed(documents, &position)
                    })
                })
                .await??;
            if let Some(found) = found {
                info!(%since, found, "caught up with missed completions");
            }
            Ok(found.is_some())
        };
        let task = tokio::spawn(append);
        *catching_up = Some(CatchingUp { accidents, task });
    }

    async fn finish_catching_up(
        &self,
        position: &mut Position,
        catching_up: &mut Option<CatchingUp>,
    ) -> Result<(), Stopped> {
        let Some(CatchingUp { accidents, task }) = catching_up.take() else {
            return Ok(());
        };
        // One that broke is begun again with the next stream.
        if let Ok(finished) = task.await
            && finished?
            && accidents == position.accidents()
        {
            position.catch_up_from = None;
            self.save(position).await?;
        }
        // After another accident meanwhile all is read again.
        self.start_catching_up(position, catching_up);
        Ok(())
    }
}

/// The token of an event, from its `_id`.
fn token_of(change: &bson::RawDocument) -> Option<ResumeToken> {
    let id = change.get_document("_id").ok()?;
    bson::deserialize_from_slice(id.as_bytes()).ok()
}
