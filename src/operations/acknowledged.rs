//! Waiting until every living instance has acted on a control number.

use std::time::Duration;

use bson::{DateTime, Document, doc};

use super::running::{Running, Unfinished};
use crate::cluster::ALIVE;

/// How often the heartbeats are read.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Running {
    /// Waits for that; who sends no heartbeat for ten seconds is dead, and sends nothing else either. Returns how many live.
    pub(super) async fn acknowledged(&self, number: i64) -> Result<usize, Unfinished> {
        let parts = &self.executor.parts;
        loop {
            let alive = parts.clock.now().timestamp_millis() - i64::try_from(ALIVE.as_millis()).unwrap_or(0);
            let living = doc! {
                "_id": { "$gte": "instance/", "$lt": "instance0" }, "seenAt": { "$gte": DateTime::from_millis(alive) },
            };
            let mut waited_for = living.clone();
            waited_for.insert("control", doc! { "$not": { "$gte": number } });
            match self.count_instances(&waited_for).await? {
                Ok(0) => {
                    let living = self.count_instances(&living).await?;
                    return Ok(usize::try_from(living.unwrap_or(0)).unwrap_or(0));
                }
                Ok(_) => self.rest(LOOK_EVERY).await?,
                Err(_) => self.rest(ALIVE).await?,
            }
        }
    }

    async fn count_instances(&self, filter: &Document) -> Result<std::result::Result<u64, String>, Unfinished> {
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
