//! Trying a transaction of a source until it is committed: smaller after a conflict or where it is too large, later while
//! MongoDB is unavailable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use crate::store::{Backoff, Error, Kind, Stopped, Store, Tries};

/// Bytes of payload in one transaction, at most.
const BUDGET: usize = 4 << 20;

/// The same when even small ones are too large.
const LEAST_BUDGET: usize = 64 << 10;

/// Conflicts and transactions that are too large are worth a line after this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this many successes in a row twice as much is tried.
const CONFIDENT: u32 = 8;

/// How much goes into a transaction just now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    halvings: u32,
    successes: u32,
}

impl Pace {
    /// How many of `most` items to take.
    pub(crate) fn share_of(&self, most: usize) -> usize {
        (most >> self.0.lock().halvings.min(16)).max(1)
    }

    /// Bytes of payload to write.
    pub(crate) fn budget(&self) -> usize {
        (BUDGET >> self.0.lock().halvings.min(16)).max(LEAST_BUDGET)
    }
}

/// The tries of one transaction.
pub(crate) struct Attempts<'a> {
    store: &'a Store,
    pace: &'a Pace,
    what: &'static str,
    began: Instant,
    try_began: Instant,
    warned: bool,
    backoff: Backoff,
    tries: Tries,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(store: &'a Store, pace: &'a Pace, what: &'static str) -> Self {
        Self {
            store,
            pace,
            what,
            began: Instant::now(),
            try_began: Instant::now(),
            warned: false,
            backoff: Backoff::default(),
            tries: store.outage().tries(),
        }
    }

    /// How many of `most` items to take.
    pub(crate) fn share_of(&self, most: usize) -> usize {
        self.pace.share_of(most)
    }

    /// Bytes of payload to write.
    pub(crate) fn budget(&self) -> usize {
        self.pace.budget()
    }

    pub(crate) fn succeeded(&mut self) {
        self.tries.succeeded();
        let mut pace = self.pace.0.lock();
        pace.successes += 1;
        if pace.successes >= CONFIDENT {
            pace.successes = 0;
            pace.halvings = pace.halvings.saturating_sub(1);
        }
    }

    /// Waits before the next try, or has it be smaller.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops.
    pub(crate) async fn failed(&mut self, error: &Error) -> Result<(), Stopped> {
        match error.kind() {
            Kind::Conflict | Kind::TooLarge | Kind::Refused => self.smaller(error).await,
            Kind::Unavailable | Kind::Denied | Kind::Authentication => self.wait(error).await,
        }
    }

    /// The next try takes half as much.
    pub(crate) async fn smaller(&mut self, error: &Error) -> Result<(), Stopped> {
        let at_least = {
            let mut pace = self.pace.0.lock();
            pace.successes = 0;
            pace.halvings = (pace.halvings + 1).min(16);
            pace.halvings == 16
        };
        if self.began.elapsed() > PATIENCE && !self.warned {
            self.warned = true;
            warn!(error = %error, "it takes long to {}: tried again with less at a time", self.what);
        }
        if at_least || error.kind() == Kind::Conflict {
            return self.pause().await;
        }
        Ok(())
    }

    async fn wait(&mut self, error: &Error) -> Result<(), Stopped> {
        self.tries.failed(self.what, error, self.try_began);
        self.pause().await
    }

    async fn pause(&mut self) -> Result<(), Stopped> {
        tokio::select! {
            () = self.store.stopped() => return Err(Stopped),
            () = self.backoff.wait() => {}
        }
        self.try_began = Instant::now();
        Ok(())
    }

    /// MongoDB refuses a single document. If it writes others, the refusal is that document's own; else MongoDB is unavailable,
    /// and this waits.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops.
    pub(crate) async fn is_refusal_its_own(&mut self, error: &Error) -> Result<bool, Stopped> {
        if self.store.probe().await.is_ok() {
            return Ok(true);
        }
        self.wait(error).await?;
        Ok(false)
    }
}
