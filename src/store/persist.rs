//! Operations that are repeated until they succeed.

use std::time::Instant;

use super::{Backoff, Result, Stopped, Store};

impl Store {
    /// Runs `operation` until it succeeds or the daemon stops: after 100 ms, then ever later, up to 5 s, and up to 30 s while MongoDB
    /// refuses. `what` names it in the log. Each failure counts as progress of the loop: see [`super::with_progress`].
    ///
    /// `operation` must be safe to repeat: a reply may be lost after the write was done.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn persist<T, F>(
        &self,
        what: &'static str,
        mut operation: impl FnMut() -> F,
    ) -> std::result::Result<T, Stopped>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = Backoff::default();
        let mut reporter = self.outage.reporter();
        loop {
            let began = Instant::now();
            let client = self.connection.number();
            let error = match operation().await {
                Ok(value) => {
                    reporter.succeeded();
                    return Ok(value);
                }
                Err(error) => error,
            };
            if self.stop.is_cancelled() {
                return Err(Stopped);
            }
            reporter.failed(what, &error, began);
            tokio::select! {
                () = self.stop.cancelled() => return Err(Stopped),
                () = self.connection.renewed(client) => {}
                () = backoff.wait_after(error.kind()) => {}
            }
        }
    }
}
