//! How much a source writes in one transaction, which it repeats until it is committed: half as much after a conflict or where it
//! is too large, later while MongoDB is unavailable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use crate::store::{Backoff, Error, Kind, Reporter, Stopped, Store};

/// Bytes of payload in one transaction, at most.
const BUDGET: usize = 4 << 20;

/// The same when even small ones are too large.
const LEAST_BUDGET: usize = 64 << 10;

/// Conflicts and transactions that are too large are worth a line after this long.
const LONG: Duration = Duration::from_secs(10);

/// After this many successes in a row twice as much is written.
const CONFIDENT: u32 = 8;

const MAX_HALVINGS: u32 = 16;

/// How much goes into a transaction at the moment. Example: after two halvings a quarter, so 250 of 1,000 certificates and 1 MB of
/// payloads; after eight commits half.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransactionSize(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    halvings: u32,
    successes: u32,
}

impl TransactionSize {
    /// How many of `most` items go into a transaction.
    pub(crate) fn share_of(&self, most: usize) -> usize {
        (most >> self.0.lock().halvings.min(MAX_HALVINGS)).max(1)
    }

    /// Bytes of payload that go into a transaction.
    pub(crate) fn budget(&self) -> usize {
        (BUDGET >> self.0.lock().halvings.min(MAX_HALVINGS)).max(LEAST_BUDGET)
    }
}

/// One transaction that is repeated until it is committed.
pub(crate) struct Repetition<'a> {
    store: &'a Store,
    size: &'a TransactionSize,
    what: &'static str,
    began: Instant,
    last_began: Instant,
    warned: bool,
    backoff: Backoff,
    reporter: Reporter,
}

impl<'a> Repetition<'a> {
    pub(crate) fn new(store: &'a Store, size: &'a TransactionSize, what: &'static str) -> Self {
        Self {
            store,
            size,
            what,
            began: Instant::now(),
            last_began: Instant::now(),
            warned: false,
            backoff: Backoff::default(),
            reporter: store.outage().reporter(),
        }
    }

    pub(crate) fn succeeded(&mut self) {
        self.reporter.succeeded();
        let mut size = self.size.0.lock();
        size.successes += 1;
        if size.successes >= CONFIDENT {
            size.successes = 0;
            size.halvings = size.halvings.saturating_sub(1);
        }
    }

    /// Waits before the transaction is repeated, or has it be smaller.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops.
    pub(crate) async fn failed(&mut self, error: &Error) -> Result<(), Stopped> {
        match error.kind() {
            Kind::Conflict if error.lacks_index() => self.wait(error).await,
            Kind::Conflict | Kind::TooLarge | Kind::Refused => self.smaller(error).await,
            Kind::Unavailable | Kind::Denied | Kind::Authentication => self.wait(error).await,
        }
    }

    /// Half as much goes into the next transaction, at once.
    pub(crate) fn halve(&mut self) {
        let mut size = self.size.0.lock();
        size.successes = 0;
        size.halvings = (size.halvings + 1).min(MAX_HALVINGS);
    }

    /// The same, after a pause where that may help.
    pub(crate) async fn smaller(&mut self, error: &Error) -> Result<(), Stopped> {
        self.halve();
        let at_least = self.size.0.lock().halvings == MAX_HALVINGS;
        if self.began.elapsed() > LONG && !self.warned {
            self.warned = true;
            warn!(error = %error, "it takes long to {}: repeated with less at a time", self.what);
        }
        if at_least || error.kind() == Kind::Conflict {
            return self.pause().await;
        }
        Ok(())
    }

    async fn wait(&mut self, error: &Error) -> Result<(), Stopped> {
        self.reporter.failed(self.what, error, self.last_began);
        self.pause().await
    }

    async fn pause(&mut self) -> Result<(), Stopped> {
        tokio::select! {
            () = self.store.stopped() => return Err(Stopped),
            () = self.backoff.wait() => {}
        }
        self.last_began = Instant::now();
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
