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

use super::attempts::Pace;
use super::stream::{Ending, Item, follow};
use super::{Horizon, Rejections, catch_up};
use crate::model::{Clock, Reloadable};
use crate::outbox::Outbox;
use crate::platform::Directory;
use crate::store::{Backoff, Stopped, Store, Tries};

use position::{Position, Unsaved};

/// Changes that are processed together, at most.
const GROUP: usize = 500;

/// The shortest time between two writes of the position by itself.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What the watch needs.
#[derive(Clone)]
pub struct Watch {
    /// Holds the platform's collections and ours.
    pub store: Store,
    /// Where events go.
    pub outbox: Outbox,
    /// Who wants them.
    pub directory: Directory,
    /// Tells the database's time.
    pub clock: Clock,
    /// How long the outbox remembers.
    pub retention: Duration,
    /// When the stream last moved: an event, or the word that there is none.
    pub moved_at: Reloadable<Option<DateTime>>,
    /// Counts what can't be an event.
    pub rejections: Rejections,
    /// Who wants to hear of expiries.
    pub horizon: Horizon,
    /// How much goes into a transaction.
    pub(crate) pace: Pace,
}

/// A walk that finds missed awards, under way; `false` if a later lease has moved the position.
type CatchingUp = (u32, JoinHandle<Result<bool, Stopped>>);

impl Watch {
    /// What watches the change stream.
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
            pace: Pace::default(),
        }
    }

    /// Makes sure that there is a position to go on from, whoever holds the lease. What is awarded after this returns is found.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn begin(&self, lease: Option<i64>) -> Result<(), Stopped> {
        Position::load(&self.store, lease.unwrap_or(0), self.retention)
            .await
            .map(drop)
    }

    /// Watches under that lease until `stop`, through every accident, or until a later lease has moved the position. `beat` is
    /// called whenever the stream moves or fails.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a MongoDB that is unavailable; nothing is lost, the position is as it was saved.
    pub async fn run(self, lease: i64, stop: CancellationToken, beat: impl Fn()) -> Result<(), Stopped> {
        let Some(mut position) = Position::load(&self.store, lease, self.retention).await? else {
            return Ok(());
        };
        self.moved_at.set(Some(position.at()));
        let (mut backoff, mut tries) = (Backoff::default(), self.store.outage().tries());
        let mut catching_up = None;
        while !stop.is_cancelled() {
            self.catch_up(&position, &mut catching_up);
            let (items, receiver) = mpsc::channel(GROUP);
            let (store, clock, start) = (self.store.clone(), self.clock.clone(), position.start());
            let stream = tokio::spawn(follow(store, clock, start, items, stop.clone()));
            let (before, began) = (position.at(), std::time::Instant::now());
            let ending = self
                .drain(receiver, &mut position, &mut catching_up, &mut tries, &stop, &beat)
                .await;
            // The stream's task ends by itself once nobody listens; a driver future is never dropped.
            let _ = stream.await;
            beat();
            match ending? {
                None => return Ok(()),
                Some(Ending::Stopped) => {}
                Some(Ending::Broken(error)) => tries.failed("follow the change stream", &error, began),
                Some(Ending::Invalidated) => {
                    warn!(
                        "the collection was dropped or renamed; starting afresh, missed completions are found by query"
                    );
                    position.miss();
                }
                Some(Ending::Lost(error)) => {
                    warn!(%error, "the change stream can't go on where it was; starting afresh, missed completions are found by query");
                    position.lose(&self.store).await?;
                }
            }
            if position.at() > before {
                backoff = Backoff::default();
            }
            stop.run_until_cancelled(backoff.wait()).await;
        }
        self.save(&position).await.map(drop)
    }

    /// Processes what the stream yields, in groups, until it ends; `None` when a later lease has moved the position.
    async fn drain(
        &self,
        mut items: mpsc::Receiver<Item>,
        position: &mut Position,
        catching_up: &mut Option<CatchingUp>,
        tries: &mut Tries,
        stop: &CancellationToken,
        beat: &impl Fn(),
    ) -> Result<Option<Ending>, Stopped> {
        let mut received = Vec::with_capacity(GROUP);
        let mut saved: Option<Instant> = None;
        loop {
            if items.recv_many(&mut received, GROUP).await == 0 {
                let broke = mongodb::error::Error::custom("the task that reads the change stream broke");
                return Ok(Some(Ending::Broken(broke.into())));
            }
            let mut group = process::Group::default();
            received.drain(..).for_each(|item| group.add(item));
            if catching_up.as_ref().is_some_and(|(_, walk)| walk.is_finished()) {
                self.caught_up(position, catching_up).await?;
            }
            if group.has_awards() && self.directory.up_to_date(stop.cancelled(), beat).await.is_err() {
                return Ok(Some(Ending::Stopped));
            }
            if !self.process(&group, position).await? {
                return Ok(None);
            }
            if group.idle.is_some() || !group.changes.is_empty() {
                tries.succeeded();
                self.moved_at.set(Some(self.clock.now()));
            }
            beat();
            if group.has_awards() {
                // In the transaction that appended them.
                saved = Some(Instant::now());
            }
            if group.ending.is_some() || saved.is_none_or(|saved| saved.elapsed() >= SAVE_EVERY) {
                saved = Some(Instant::now());
                if !self.save(position).await? {
                    return Ok(None);
                }
            }
            if let Some(ending) = group.ending {
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

    /// After an accident: finds by query what happened since the stream last moved, beside the new stream. Waiting for it would
    /// let the new stream's start fall out of the oplog.
    fn catch_up(&self, position: &Position, catching_up: &mut Option<CatchingUp>) {
        let (Some(since), None) = (position.catch_up_from, &catching_up) else {
            return;
        };
        let accidents = position.accidents();
        let (watch, position) = (self.clone(), position.clone());
        let walk = async move {
            let found = watch
                .store
                .persist("catch up with missed completions", || {
                    catch_up::awards_since(&watch.store, since, |documents| watch.take(documents, &position))
                })
                .await??;
            if let Some(found) = found {
                info!(%since, found, "caught up with missed completions");
            }
            Ok(found.is_some())
        };
        *catching_up = Some((accidents, tokio::spawn(walk)));
    }

    async fn caught_up(&self, position: &mut Position, catching_up: &mut Option<CatchingUp>) -> Result<(), Stopped> {
        let Some((accidents, walk)) = catching_up.take() else {
            return Ok(());
        };
        // One that broke is begun again with the next stream.
        if let Ok(finished) = walk.await
            && finished?
            && accidents == position.accidents()
        {
            position.catch_up_from = None;
            self.save(position).await?;
        }
        // After another accident meanwhile it is walked again.
        self.catch_up(position, catching_up);
        Ok(())
    }
}

/// The token of an event, from its `_id`.
fn token_of(change: &bson::RawDocument) -> Option<ResumeToken> {
    let id = change.get_document("_id").ok()?;
    bson::deserialize_from_slice(id.as_bytes()).ok()
}
