//! Waiting until every living instance has acted on a control number.

use std::time::Duration;

use bson::{Document, doc};

use super::running::{Running, Unfinished};
use crate::cluster::{ALIVE, living};
use crate::store::Result;

/// How often the heartbeats are read.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Running {
    /// Waits until every living instance has acted on that control number. An instance that sends no heartbeat for ten seconds is
    /// dead, and sends nothing else either. Returns how many are alive.
    pub(super) async fn wait_for_instances(&self, number: i64) -> Result<usize, Unfinished> {
        let parts = &self.executor.parts;
        loop {
            let living = living(parts.clock.now());
            let mut waited_for = living.clone();
            waited_for.insert("control", doc! { "$not": { "$gte": number } });
            match self.count_instances(&waited_for).await {
                Ok(0) => return self.count_living(&living).await,
                Ok(_) => self.wait(LOOK_EVERY).await?,
                // MongoDB refuses the question, and without a reply to it `done` might not be true: asked again later.
                Err(Unfinished::Failed(_)) => self.wait(ALIVE).await?,
                Err(Unfinished::Abandoned) => return Err(Unfinished::Abandoned),
            }
        }
    }

    /// For the result alone: where MongoDB refuses it, 0.
    async fn count_living(&self, living: &Document) -> Result<usize, Unfinished> {
        match self.count_instances(living).await {
            Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
            Err(Unfinished::Failed(_)) => Ok(0),
            Err(Unfinished::Abandoned) => Err(Unfinished::Abandoned),
        }
    }

    async fn count_instances(&self, filter: &Document) -> Result<u64, Unfinished> {
        let count = || async {
            Ok(self
                .executor
                .parts
                .store
                .state()
                .count_documents(filter.clone())
                .await?)
        };
        self.persist(count).await
    }
}
