//! Sending again, on request, what has ended.
//!
//! A document becomes pending again as a whole, but what is settled in it stays settled: results are taken out of what was chosen
//! alone. A delivery that was delivered as one of several keeps its result where it is, and goes out from a document of its own.

mod document;
mod selection;

use bson::{DateTime, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::store::{Result, Store};

use document::Ended;
use selection::Search;
pub use selection::Selection;

/// Documents that are read before they are written to.
const PAGE: usize = 100;

/// Writes at once.
const PARALLEL: usize = 8;

/// A delivery that would be sent again.
#[derive(Clone, Debug)]
pub struct Replayable {
    /// `EVENT/ORGANIZATION/ENDPOINT`
    pub delivery: String,
    /// How it ended.
    pub state: String,
    /// Attempts so far.
    pub attempts: i32,
    /// When the event happened.
    pub occurred_at: DateTime,
    /// What failed last.
    pub last_error: Option<String>,
}

impl Selection {
    /// Makes what is selected pending again, with all its attempts before it; running instances send it within a second. Returns
    /// how many deliveries that are. `now` is the database's.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable. Repeated, it goes on with what is left.
    pub async fn replay(&self, store: &Store, now: DateTime) -> Result<u64> {
        let mut search = Search::new(self, store, now);
        let mut count = 0;
        loop {
            let page = search.page(PAGE).await?;
            if page.is_empty() {
                return Ok(count);
            }
            let writes = stream::iter(page).map(|ended| send_again(store, ended, now));
            let counts: Vec<u64> = writes.buffer_unordered(PARALLEL).try_collect().await?;
            count += counts.iter().sum::<u64>();
        }
    }

    /// What [`Selection::replay`] would send again: the first deliveries, `limit` at most, and how many there are in all.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn preview(&self, store: &Store, now: DateTime, limit: usize) -> Result<(Vec<Replayable>, u64)> {
        let mut search = Search::new(self, store, now);
        let (mut first, mut count) = (Vec::new(), 0);
        loop {
            let page = search.page(PAGE).await?;
            if page.is_empty() {
                return Ok((first, count));
            }
            for ended in &page {
                count += ended.chosen.len() as u64;
                let left = limit - first.len();
                first.extend(ended.replayable().take(left));
            }
        }
    }
}

/// Sends again what is chosen of a document, unless somebody else writes to it meanwhile. Returns how many deliveries that are.
async fn send_again(store: &Store, ended: Ended, now: DateTime) -> Result<u64> {
    let outbox = store.outbox();
    let mut count = 0;
    if ended.reopened() > 0 {
        let (filter, update) = ended.reopen(now);
        let done = outbox.update_one(filter, update).await?;
        count += done.modified_count * ended.reopened();
    }
    if ended.copied().is_empty() {
        return Ok(count);
    }
    let whole = outbox.find_one(doc! { "_id": &ended.id }).await?;
    for copy in whole.map(|whole| ended.copies(&whole, now)).unwrap_or_default() {
        match outbox.insert_one(copy).await {
            Ok(_) => count += 1,
            // It was sent again before, and is chosen by its own document.
            Err(error) if is_duplicate(&error) => {}
            Err(error) => Err(error)?,
        }
    }
    Ok(count)
}

fn is_duplicate(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == 11000)
}
