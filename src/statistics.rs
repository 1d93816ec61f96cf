//! Figures for the platform's back office, per endpoint and day: see docs/statistics.md.
//!
//! They are counted from results that are recorded, each once: a group of results has a note in the outbox until it is counted,
//! and each document says which groups are in its figures. So counting again is harmless, whoever does it: the daemon that
//! recorded the results, a second later and with all others of that second; or, if it died before, the next one.

mod figures;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::kill_point;
use crate::outbox::{Group, Outbox};
use crate::store::{Result, STATISTICS, Stopped, Store};

use figures::Figures;

/// How long results gather before they are counted.
const PAUSE: Duration = Duration::from_secs(1);

/// Rows in one command.
const ROWS: usize = 1_000;

/// Counts recorded results.
#[derive(Clone)]
pub struct Statistics {
    store: Store,
    outbox: Outbox,
}

impl Statistics {
    /// The statistics of the deliveries in `outbox`.
    pub fn new(store: Store, outbox: Outbox) -> Self {
        Self { store, outbox }
    }

    /// Counts what is recorded until every sender is gone and all is counted.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a database that is away; the next daemon counts then.
    pub async fn run(self, mut recorded: mpsc::UnboundedReceiver<Group>) -> std::result::Result<(), Stopped> {
        while let Some(groups) = gather(&mut recorded).await {
            self.store.persist("count results", || self.count(&groups)).await?;
        }
        Ok(())
    }

    /// Counts what owners recorded that are not in `live` and did not count themselves.
    ///
    /// # Errors
    /// MongoDB is away. Safe to repeat.
    pub async fn recover(&self, live: &[String]) -> Result<()> {
        let groups = self.outbox.uncounted(live).await?;
        for group in groups.chunk_by(|one, next| one.owner == next.owner) {
            self.count(group).await?;
        }
        Ok(())
    }

    /// Counts groups of one owner, the earliest first.
    async fn count(&self, groups: &[Group]) -> Result<()> {
        if !self.add(groups).await? {
            // Some are counted already, by whom this owner seemed dead to: one by one, it shows which.
            for group in groups {
                self.add(std::slice::from_ref(group)).await?;
            }
        }
        kill_point::reach("counted");
        self.outbox.forget(groups).await
    }

    /// Adds the groups to the figures that hold none of them. Returns whether that was so everywhere.
    async fn add(&self, groups: &[Group]) -> Result<bool> {
        let mut by_document: BTreeMap<String, Figures> = BTreeMap::new();
        for group in groups {
            for entry in &group.entries {
                let id = figures::id(entry.endpoint(), group.at);
                by_document
                    .entry(id)
                    .or_insert_with(|| Figures::from(group))
                    .add(group, entry);
            }
        }
        let mut figures = by_document.iter();
        let mut untouched = true;
        loop {
            let rows: Vec<_> = figures
                .by_ref()
                .take(ROWS)
                .map(|(id, figures)| figures.row(id))
                .collect();
            if rows.is_empty() {
                return Ok(untouched);
            }
            let reply = self.store.update_in_order(STATISTICS, &rows).await?;
            untouched &= reply.changed == rows.len();
        }
    }
}

/// The next results and all that follow within [`PAUSE`]; `None` when no more can come.
async fn gather(recorded: &mut mpsc::UnboundedReceiver<Group>) -> Option<Vec<Group>> {
    let mut groups = vec![recorded.recv().await?];
    let deadline = Instant::now() + PAUSE;
    while let Ok(Some(group)) = timeout_at(deadline, recorded.recv()).await {
        groups.push(group);
    }
    Some(groups)
}
