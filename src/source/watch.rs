//! The change stream turned into events: `certificate_completed`.
//!
//! The resume token is saved after the outbox write, never before, and on idle too: the token of a quiet collection ages
//! out of the oplog.

mod position;
mod process;

use std::time::Duration;

use mongodb::change_stream::event::ResumeToken;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::stream::{Ending, Item, follow};
use super::{Horizon, Rejections, catch_up};
use crate::model::{Clock, Live};
use crate::outbox::Outbox;
use crate::platform::Directory;
use crate::store::{Backoff, Stopped, Store, Tries, reason};

use position::Position;

/// Changes that wait to be processed together.
const GROUP: usize = 500;

/// The token is saved at most so often.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What the watch needs.
#[derive(Clone)]
pub struct Watch {
    /// The database.
    pub store: Store,
    /// Where events go.
    pub outbox: Outbox,
    /// Who wants them.
    pub directory: Directory,
    /// The time.
    pub clock: Clock,
    /// How long the outbox remembers.
    pub retention: Duration,
    /// What the watch tells of itself.
    pub status: Live<WatchStatus>,
    /// Counts what can't be an event.
    pub rejections: Rejections,
    /// Who wants to hear of expiries.
    pub horizon: Horizon,
}

/// The state of the watch, for status lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStatus {
    /// When the stream last moved: an event, or the word that there is none.
    pub moved_at: Option<bson::DateTime>,
    /// Events found since the start.
    pub events: u64,
}

impl Watch {
    /// Makes sure that there is a position to go on from. What is awarded after this returns is found.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn begin(&self) -> Result<(), Stopped> {
        Position::load(&self.store, self.retention).await.map(drop)
    }

    /// Watches under that lease until `stop`, through every accident, or until a later lease has moved the position. `beat` is called whenever the stream moves or fails.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a database that is away; nothing is lost, the token stands where it was saved.
    pub async fn run(self, lease: i64, stop: CancellationToken, beat: impl Fn()) -> Result<(), Stopped> {
        let mut position = Position::load(&self.store, self.retention).await?.under(lease);
        self.moved(position.at(), 0);
        let (mut backoff, mut tries) = (Backoff::default(), self.store.outage().tries());
        while !stop.is_cancelled() && !position.is_fenced() {
            self.catch_up(&mut position).await?;
            let (items, receiver) = mpsc::channel(GROUP);
            let (store, clock, start) = (self.store.clone(), self.clock.clone(), position.start());
            let stream = tokio::spawn(follow(store, clock, start, items, stop.clone()));
            let (before, began) = (position.at(), std::time::Instant::now());
            let ending = self.drain(receiver, &mut position, &mut tries, &beat).await;
            // The stream's task ends by itself once nobody listens; a driver future is never dropped.
            let _ = stream.await;
            beat();
            match ending? {
                Ending::Stopped => {}
                Ending::Broken(error) => tries.failed("follow the change stream", &error, began),
                Ending::Invalidated => {
                    warn!(
                        "the collection was dropped or renamed; starting afresh, missed completions are found by query"
                    );
                }
                Ending::Lost(error) => {
                    warn!(error = %reason(&error), "the change stream's token is of no use; starting afresh, missed completions are found by query");
                    position.lose(&self.store).await?;
                }
            }
            if position.at() > before {
                backoff = Backoff::default();
            }
            stop.run_until_cancelled(backoff.wait()).await;
        }
        position.save(&self.store).await
    }

    /// Processes what the stream yields, in groups, until it ends.
    async fn drain(
        &self,
        mut items: mpsc::Receiver<Item>,
        position: &mut Position,
        tries: &mut Tries,
        beat: &impl Fn(),
    ) -> Result<Ending, Stopped> {
        let mut group = Vec::with_capacity(GROUP);
        let mut saved = Instant::now();
        loop {
            items.recv_many(&mut group, GROUP).await;
            let mut step = process::Step::default();
            group.drain(..).for_each(|item| step.add(item));
            let events = self.process(&step.changes).await?;
            if step.reached.is_some() {
                tries.succeeded();
                self.moved(self.clock.now(), events);
            }
            beat();
            position.advance(&step);
            if saved.elapsed() >= SAVE_EVERY || step.ending.is_some() {
                position.save(&self.store).await?;
                saved = Instant::now();
            }
            if position.is_fenced() {
                return Ok(Ending::Stopped);
            }
            if let Some(ending) = step.ending {
                return Ok(ending);
            }
        }
    }

    /// After an accident: finds by query what happened since the stream last moved.
    async fn catch_up(&self, position: &mut Position) -> Result<(), Stopped> {
        let Some(since) = position.catch_up_from else {
            return Ok(());
        };
        let found = self
            .store
            .persist("catch up with missed completions", || async {
                catch_up::awards_since(&self.store, since, |batch| self.take(batch)).await
            })
            .await?;
        info!(%since, found, "caught up with missed completions");
        position.caught_up(&self.store).await
    }

    fn moved(&self, at: bson::DateTime, events: usize) {
        let before = self.status.get();
        self.status.set(WatchStatus {
            moved_at: Some(at),
            events: before.events + events as u64,
        });
    }
}

/// The token of an event, from its `_id`.
fn token_of(change: &bson::RawDocument) -> Option<ResumeToken> {
    let id = change.get_document("_id").ok()?;
    bson::deserialize_from_slice(id.as_bytes()).ok()
}
