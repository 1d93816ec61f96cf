//! Results of batches to which somebody else writes, such as a transaction that stays open after its instance died: they are tried
//! again beside what comes meanwhile, and nothing waits for them.

use std::time::Duration;

use tokio::time::Instant;

use super::write_results::ResultSet;

/// They are tried again after this time, then after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct ContendedResults {
    sets: Vec<ResultSet>,
    tried: u32,
    due: Option<Instant>,
}

impl ContendedResults {
    /// Keeps results of one endpoint that met a conflict.
    pub(super) fn add(&mut self, set: ResultSet) {
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.tried.min(10));
        self.due
            .get_or_insert_with(|| Instant::now() + pause.min(LONGEST_PAUSE));
        self.sets.push(set);
    }

    /// When they are tried again; `None` if there are none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Removes them, if it is time to try them again. Those that meet a conflict again come back by [`ContendedResults::add`].
    pub(super) fn remove_due(&mut self) -> Vec<ResultSet> {
        match self.due {
            None => self.tried = 0,
            Some(due) if due > Instant::now() => return Vec::new(),
            Some(_) => self.tried += 1,
        }
        self.due = None;
        std::mem::take(&mut self.sets)
    }
}
