//! Sending again, on request, what has ended.
//!
//! A document becomes pending again as a whole, but what is settled in it stays settled: results are taken out of what was chosen
//! alone. A delivery that was delivered as one of several keeps its result where it is, and goes out from a document of its own.

mod document;

use std::collections::HashSet;

use bson::{DateTime, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::Outbox;
use super::document::id_of;
use super::selection::{Search, Selection, fields};
use crate::store::{OUTBOX, Result, Store, Transaction, update_row};

use document::Ended;

/// Documents that are read at a time.
const PAGE: usize = 100;

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

/// What a replay would do.
#[derive(Debug, Default)]
pub struct Preview {
    /// The first of what would be sent again.
    pub first: Vec<Replayable>,
    /// How many would be sent again.
    pub deliveries: u64,
    /// How many would be left out, because they were erased.
    pub erased: u64,
    /// How many would be left out, because their payload was dropped by the retention.
    pub without_payload: u64,
}

impl Selection {
    /// What a replay would do, with the first deliveries, `limit` at most.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn preview(&self, store: &Store, now: DateTime, limit: usize) -> Result<Preview> {
        let mut search = Search::new(self, store, now);
        let mut preview = Preview::default();
        loop {
            let page = search.page(PAGE).await?;
            if page.is_empty() {
                return Ok(preview);
            }
            for ended in page.iter().filter_map(|found| Ended::read(found, self)) {
                preview.deliveries += ended.chosen.len() as u64;
                preview.erased += ended.erased;
                preview.without_payload += ended.without_payload;
                let left = limit - preview.first.len();
                preview.first.extend(ended.replayable().take(left));
            }
        }
    }
}

impl Outbox {
    /// Makes what is selected of these documents pending again, with all its attempts before it. Returns how many deliveries that
    /// are. What has ended since `before` is left as it is.
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub async fn replay_in_transaction(
        &self,
        transaction: &mut Transaction,
        ids: &[String],
        selection: &Selection,
        before: DateTime,
        now: DateTime,
    ) -> Result<u64> {
        let options = FindOptions::builder().projection(fields()).build();
        let filter = doc! { "_id": { "$in": ids }, "finishedAt": { "$lt": before } };
        let found = transaction.find(OUTBOX, filter, options).await?;
        let ended: Vec<_> = found.iter().filter_map(|found| Ended::read(found, selection)).collect();
        let (mut rows, mut reopened) = (Vec::new(), 0);
        for ended in &ended {
            if ended.reopened() == 0 {
                continue;
            }
            reopened += ended.reopened();
            let (filter, update) = ended.reopen(now);
            rows.push(update_row(
                RawDocumentBuf::try_from(&filter)?,
                RawDocumentBuf::try_from(&update)?,
                false,
            ));
        }
        transaction.update(OUTBOX, rows.iter()).await?;
        let copies = self.copies(transaction, &ended, now).await?;
        transaction.insert(OUTBOX, copies.iter()).await?;
        Ok(reopened + copies.len() as u64)
    }

    /// Documents for deliveries that keep their results where they are. One that was sent again before has its document already,
    /// and is chosen by that.
    async fn copies(
        &self,
        transaction: &mut Transaction,
        ended: &[Ended],
        now: DateTime,
    ) -> Result<Vec<RawDocumentBuf>> {
        let mut copies = Vec::new();
        for one in ended {
            if one.copied().is_empty() {
                continue;
            }
            let filter = doc! { "_id": &one.id };
            let whole = transaction.find(OUTBOX, filter, FindOptions::default()).await?;
            copies.extend(whole.first().map(|whole| one.copies(whole, now)).unwrap_or_default());
        }
        let ids: Vec<_> = copies.iter().filter_map(|copy| id_of(copy)).collect();
        let options = FindOptions::builder().projection(doc! { "_id": 1 }).build();
        let filter = doc! { "_id": { "$in": ids } };
        let there = transaction.find(OUTBOX, filter, options).await?;
        let there: HashSet<_> = there.iter().filter_map(|document| id_of(document)).collect();
        copies.retain(|copy| id_of(copy).is_some_and(|id| !there.contains(&id)));
        Ok(copies)
    }
}
