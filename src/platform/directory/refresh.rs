//! Keeping the directory fresh: all of it at the start and after every break, then each document that changes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bson::{RawBson, RawDocumentBuf, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use tokio_util::sync::CancellationToken;

use super::full_reads::FullReads;
use super::{Directory, DocumentId};
use crate::failpoint;
use crate::model::{Reloadable, sleep_about};
use crate::platform::member_config::EndpointPolicy;
use crate::store::{Backoff, Error, Kind, Result, Stopped, Store, loses_token};

/// How often the change stream is read, so how late a change takes effect. MongoDB wakes up a read that waits for changes at each write to
/// any collection: measured on a mongod 6.0.5, that costs 45 µs of CPU per delivery instead of 5.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The same while nobody relies on the directory: whoever does asks for changes first, where the last question is too old.
const ASK_UNUSED_EVERY: Duration = Duration::from_secs(4);

/// The directory counts as used, and is asked for each [`ASK_EVERY`], for this long after it was relied on.
const USED_FOR: Duration = Duration::from_secs(5);

/// Sources wait no longer than this for changes that come faster than they are read.
const LONGEST_CATCH_UP: Duration = Duration::from_secs(10);

/// After a failure MongoDB is asked again no sooner, also where a source waits.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// How long the server waits for a change before it says that there is none: the shortest time that it takes.
const WAIT: Duration = Duration::from_millis(1);

/// Documents that are read at once.
const AT_ONCE: usize = 100;

/// Changes that are read in one round, at most: all may be of one document, which [`AT_ONCE`] does not bound.
const CHANGES_AT_ONCE: usize = 1_000;

/// Keeps a [`Directory`] fresh.
#[derive(Clone)]
pub struct Refresh {
    /// Where the documents are.
    pub store: Store,
    /// What is kept fresh.
    pub directory: Directory,
    /// What endpoints must satisfy.
    pub policy: Reloadable<EndpointPolicy>,
}

/// How far the changes were followed.
#[derive(Default)]
struct Position {
    /// Where the stream goes on. `None`: all must be read anew.
    token: Option<ResumeToken>,
    /// Documents that have changed since they were last read.
    stale: HashSet<DocumentId>,
    /// The policy by which the directory's endpoints were judged.
    policy: Option<EndpointPolicy>,
    full_reads: FullReads,
    /// When somebody relied on the directory last, as far as that was seen.
    used_at: Option<Instant>,
}

/// How far a stream was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collected {
    /// There were no more changes.
    All,
    /// There may be more.
    Part,
    /// It is over.
    Over,
}

/// Why a stream is followed no longer.
enum Ending {
    /// The daemon stops.
    Stopped,
    /// The collection was dropped or renamed, or a reload judges endpoints otherwise: all must be read anew.
    Afresh,
}

impl Refresh {
    /// Reads all. Must have succeeded before the first scan: an endpoint that is not in the directory gets nothing.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn load(&self) -> std::result::Result<(), Stopped> {
        self.store.persist("read the endpoints", || self.read_all()).await
    }

    /// Reads all once, without waiting for a MongoDB that is unavailable.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn read_once(&self) -> Result<()> {
        self.read_all().await
    }

    /// Follows changes until `stop`. `progress` is called in every round, whether it succeeds or fails.
    ///
    /// # Errors
    /// None. The type is that of the other tasks.
    pub async fn run(self, stop: CancellationToken, progress: impl Fn()) -> std::result::Result<(), Stopped> {
        let mut position = Position {
            used_at: Some(Instant::now()),
            ..Position::default()
        };
        let mut backoff = Backoff::default();
        let mut reporter = self.store.outage().reporter();
        while !stop.is_cancelled() {
            progress();
            let began = Instant::now();
            let applied = || {
                progress();
                backoff = Backoff::default();
                reporter.succeeded();
            };
            match self.follow(&mut position, &stop, applied).await {
                Ok(Ending::Stopped) => break,
                Ok(Ending::Afresh) => position.token = None,
                Err(error) => {
                    reporter.failed("follow the endpoints' changes", &error, began);
                    self.wait_after(&error, &mut backoff, &stop).await;
                }
            }
        }
        self.directory.0.freshness.follows_nothing();
        Ok(())
    }

    /// Who begins to wait for changes ends the pause, but for its shortest time.
    async fn wait_after(&self, error: &Error, backoff: &mut Backoff, stop: &CancellationToken) {
        let freshness = &self.directory.0.freshness;
        if error.kind().is_general() {
            freshness.set_unavailable();
        } else {
            freshness.follows_nothing();
        }
        let wanted = async {
            tokio::time::sleep(SHORTEST_PAUSE).await;
            freshness.wanted().await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = wanted => {}
            () = backoff.wait() => {}
        }
    }

    /// Follows one stream. `applied` is called whenever all changes that it yielded are in effect.
    async fn follow(
        &self,
        position: &mut Position,
        stop: &CancellationToken,
        mut applied: impl FnMut(),
    ) -> Result<Ending> {
        let freshness = &self.directory.0.freshness;
        if position.token.is_none() {
            let now = tokio::time::Instant::now();
            let next = position.full_reads.next(now);
            if next > now {
                freshness.pauses();
            }
            stop.run_until_cancelled(tokio::time::sleep_until(next)).await;
        }
        if stop.is_cancelled() {
            return Ok(Ending::Stopped);
        }
        let stream = self.open(position.token.clone()).await;
        // Read after the stream was opened: no change falls in between. Where MongoDB refuses the stream, this is how changes
        // take effect.
        if position.token.is_none() && stream.as_ref().err().is_none_or(is_refused) {
            self.read_all_at(position).await?;
        }
        position.check(&stream);
        let mut stream = stream?;
        let mut asked = tokio::time::Instant::now();
        while !stop.is_cancelled() {
            if position.policy.as_ref() != Some(&*self.policy.get()) {
                return Ok(Ending::Afresh);
            }
            self.directory.expire();
            let collected = position.collect(&mut stream).await?;
            let is_idle = position.stale.is_empty();
            if !is_idle {
                let stale: Vec<_> = position.stale.iter().cloned().collect();
                self.reread(&stale).await?;
                position.stale.clear();
            }
            applied();
            match collected {
                Collected::All => freshness.follows_since(asked),
                Collected::Part => {
                    if asked.elapsed() > LONGEST_CATCH_UP {
                        freshness.pauses();
                    }
                    continue;
                }
                Collected::Over => return Ok(Ending::Afresh),
            }
            if is_idle {
                self.rest(&mut position.used_at, stop).await;
            }
            asked = tokio::time::Instant::now();
        }
        Ok(Ending::Stopped)
    }

    /// Waits until it is time to ask for changes again.
    async fn rest(&self, used_at: &mut Option<Instant>, stop: &CancellationToken) {
        let freshness = &self.directory.0.freshness;
        if freshness.reset_used() {
            *used_at = Some(Instant::now());
        }
        let is_used = used_at.is_some_and(|at| at.elapsed() < USED_FOR);
        let unused = failpoint::limit("directory-unused", ASK_UNUSED_EVERY);
        tokio::select! {
            () = stop.cancelled() => {}
            () = freshness.wanted() => {}
            () = sleep_about(if is_used { ASK_EVERY } else { unused }) => {}
        }
    }

    async fn read_all_at(&self, position: &mut Position) -> Result<()> {
        position.full_reads.began(tokio::time::Instant::now());
        let policy = (*self.policy.get()).clone();
        self.read_all().await?;
        position.policy = Some(policy);
        position.stale.clear();
        let _ = self.directory.0.followed.set(());
        Ok(())
    }

    async fn open(&self, token: Option<ResumeToken>) -> Result<ChangeStream<RawDocumentBuf>> {
        let fields = doc! { "$project": { "operationType": 1, "documentKey": 1 } };
        let collection = self.store.member_configs();
        let watch = collection.watch().pipeline([fields]).max_await_time(WAIT);
        let stream = match token {
            Some(token) => watch.resume_after(token).await?,
            None => watch.await?,
        };
        Ok(stream.with_type())
    }
}

impl Position {
    /// Collects the ids of what has changed.
    async fn collect(&mut self, stream: &mut ChangeStream<RawDocumentBuf>) -> Result<Collected> {
        for _ in 0..CHANGES_AT_ONCE {
            if self.stale.len() >= AT_ONCE {
                break;
            }
            let change = stream.next_if_any().await;
            let change = change.map_err(Error::from);
            self.check(&change);
            let change = change?;
            let id = change
                .as_ref()
                .map(|change| change.get_document("documentKey").and_then(|key| key.get("_id")));
            match id {
                Some(Ok(Some(id))) => {
                    self.stale.insert(RawBson::from(id).into());
                }
                // Dropped, renamed, invalidated.
                Some(_) => return Ok(Collected::Over),
                None if !stream.is_alive() => return Ok(Collected::Over),
                None => {}
            }
            // After the id was collected: the stream would not yield the change again.
            self.token = stream.resume_token().or(self.token.take());
            if change.is_none() {
                return Ok(Collected::All);
            }
        }
        Ok(Collected::Part)
    }

    /// Forgets a token with which the stream is refused.
    fn check<T>(&mut self, outcome: &Result<T>) {
        if outcome.as_ref().err().is_some_and(is_refused) {
            self.token = None;
        }
    }
}

/// Whether MongoDB refuses the stream itself, or its token: to ask again the same would be refused again.
fn is_refused(error: &Error) -> bool {
    loses_token(error) || error.kind() == Kind::Denied
}
