//! Cancelling, on request, some of what is pending, and dead letters.

use bson::{DateTime, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::options::FindOptions;

use super::Outbox;
use super::document::result_field;
use super::selection::{Candidate, Search, Selection, fields};
use super::settled::has_result;
use super::versions::compared_row;
use crate::model::EndpointKey;
use crate::statistics::Additions;
use crate::store::{OUTBOX, Result, STATISTICS, Store, Transaction};

/// Documents that are read at a time.
const PAGE: usize = 100;

/// The deliveries of a document that are chosen and have no result.
struct Chosen {
    /// Their indexes in `deliveries`.
    indexes: Vec<u32>,
    /// How many have no result, chosen or not.
    open: usize,
    is_dead: bool,
}

impl Chosen {
    fn read(found: &RawDocument, selection: &Selection) -> Option<Self> {
        let state = found.get_str("state").ok()?;
        let results = found.get_array("results").ok();
        let (mut indexes, mut open) = (Vec::new(), 0);
        for (index, delivery) in found.get_array("deliveries").ok()?.into_iter().enumerate() {
            if has_result(results, index) {
                continue;
            }
            open += 1;
            let delivery = delivery.ok()?.as_document()?;
            let candidate = Candidate {
                event: delivery.get_str("event").ok()?,
                event_type: delivery.get_str("type").ok()?,
                state,
                occurred_at: delivery.get_datetime("occurredAt").ok()?,
            };
            indexes.extend(selection.includes(candidate).then_some(u32::try_from(index).ok()?));
        }
        (!indexes.is_empty()).then_some(Self {
            indexes,
            open,
            is_dead: state == "dead",
        })
    }

    fn row(&self, found: &RawDocument, reason: &str, now: DateTime) -> RawDocumentBuf {
        if self.indexes.len() == self.open {
            let set = rawdoc! { "state": "cancelled", "reason": reason, "finishedAt": now };
            return compared_row(found, set, rawdoc! { "redriven": 1, "redrivable": 1 });
        }
        let left = i32::try_from(self.open - self.indexes.len()).unwrap_or(i32::MAX);
        let mut set = rawdoc! { "open": left };
        for index in &self.indexes {
            set.append(result_field(*index), rawdoc! { "at": now, "cancelled": true });
        }
        compared_row(found, set, rawdoc! { "redriven": 1 })
    }
}

impl Selection {
    /// How many deliveries a cancellation would cancel.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn count_cancellable(&self, store: &Store, now: DateTime) -> Result<u64> {
        let (mut search, mut count) = (Search::new(self, store, now), 0);
        loop {
            let page = search.page(PAGE).await?;
            if page.is_empty() {
                return Ok(count);
            }
            let chosen = page.iter().filter_map(|found| Chosen::read(found, self));
            count += chosen.map(|chosen| chosen.indexes.len() as u64).sum::<u64>();
        }
    }
}

impl Outbox {
    /// Cancels what is selected of these documents, if it is still pending or a dead letter; what was pending is counted in the
    /// statistics if `is_counted`. Returns the number of deliveries.
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub async fn cancel_in_transaction(
        &self,
        transaction: &mut Transaction,
        ids: &[String],
        selection: &Selection,
        reason: &str,
        now: DateTime,
        is_counted: bool,
    ) -> Result<u64> {
        let options = FindOptions::builder().projection(fields()).build();
        let filter = doc! { "_id": { "$in": ids }, "state": { "$in": ["pending", "dead"] } };
        let found = transaction.find(OUTBOX, filter, options).await?;
        let (mut rows, mut count, mut statistics) = (Vec::new(), 0, Additions::default());
        for document in &found {
            let Some(chosen) = Chosen::read(document, selection) else {
                continue;
            };
            rows.push(chosen.row(document, reason, now));
            count += chosen.indexes.len() as u64;
            if let (false, Ok(endpoint)) = (chosen.is_dead, document.get_str("endpoint")) {
                let figures = statistics.of(&EndpointKey::from_stored(endpoint));
                figures.cancelled += i64::try_from(chosen.indexes.len()).unwrap_or(0);
            }
        }
        transaction.update(OUTBOX, rows.iter()).await?;
        if is_counted {
            transaction.update(STATISTICS, statistics.rows(now).iter()).await?;
        }
        Ok(count)
    }
}
