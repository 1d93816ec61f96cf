//! Dropping the payloads and bodies of responses of what has ended, before the documents go: `delivery.payload_retention`.
//!
//! How far it came is a document of `webhook_state`: what ended before its `until` is not looked at again.

use bson::{Bson, DateTime, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, cstr, doc, rawdoc};
use mongodb::Cursor;
use mongodb::options::FindOptions;

use super::Outbox;
use super::document::hint;
use super::versions::raw;
use crate::store::{OUTBOX, Result, Writer, update_row};

/// The `_id` of the document that says how far it came.
const PROGRESS: &str = "payloads";

/// What goes: beside it, a document says all that it said before.
const DROPPED: [&str; 2] = ["deliveries.payload", "history.response"];

/// Documents that are read at a time.
const READ: u32 = 1_000;

impl Outbox {
    /// Until when payloads are dropped already.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn payloads_dropped_until(&self) -> Result<Option<DateTime>> {
        let progress = self.store.state().find_one(doc! { "_id": PROGRESS }).await?;
        Ok(progress.and_then(|progress| progress.get_datetime("until").ok().copied()))
    }

    /// Notes that payloads of what ended before `until` are dropped. A later note stays.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn note_payloads_dropped(&self, until: DateTime) -> Result<()> {
        let state = self.store.state();
        let note = state.update_one(doc! { "_id": PROGRESS }, doc! { "$max": { "until": until } });
        note.upsert(true).await?;
        Ok(())
    }

    /// The `_id` and `finishedAt` of what ended at `from` or later and before `before`, the oldest first.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn ended_between(&self, from: Option<DateTime>, before: DateTime) -> Result<Cursor<RawDocumentBuf>> {
        let range = doc! { "$gte": from.unwrap_or(DateTime::MIN), "$lt": before };
        let outbox = self.store.outbox();
        let find = outbox.find(doc! { "finishedAt": range }).hint(hint("retention"));
        let find = find.sort(doc! { "finishedAt": 1 }).projection(doc! { "finishedAt": 1 });
        // Few at a time: who reads them rests in between, and MongoDB forgets a cursor after ten minutes.
        Ok(find.batch_size(READ).await?)
    }

    /// Drops the payloads of these documents, of those that ended before `before`. Returns how many had some.
    ///
    /// # Errors
    /// Nothing was dropped: MongoDB refused or is unavailable, or somebody else wrote to one of the documents.
    pub async fn drop_payloads(&self, ids: &[Bson], before: DateTime) -> Result<usize> {
        let mut transaction = self.store.begin(Writer::Upkeep).await?;
        let options = FindOptions::builder()
            .projection(doc! { "version": 1, "state": 1 })
            .build();
        let filter = doc! {
            "_id": { "$in": ids }, "finishedAt": { "$lt": before }, "deliveries.0": { "$exists": true },
            "payloadDropped": { "$ne": true },
        };
        let found = transaction.find(OUTBOX, filter, options).await?;
        if found.is_empty() {
            transaction.abort().await;
            return Ok(0);
        }
        let rows: Vec<_> = found.iter().map(|document| row(document)).collect();
        transaction.update(OUTBOX, rows.iter()).await?;
        transaction.commit().await?;
        Ok(found.len())
    }
}

/// Only if nobody else wrote to the document since it was read.
fn row(document: &RawDocument) -> RawDocumentBuf {
    let version = raw(document, "version");
    let next = match version {
        RawBson::Int32(version) => version.wrapping_add(1),
        _ => 1,
    };
    let mut set = rawdoc! { "payloadDropped": true, "version": next };
    if document.get_str("state").is_ok_and(|state| state == "dead") {
        // It can't go out again by itself.
        set.append(cstr!("redrivable"), false);
    }
    let mut update = RawArrayBuf::new();
    update.push(rawdoc! { "$unset": DROPPED.into_iter().collect::<RawArrayBuf>() });
    update.push(rawdoc! { "$set": set });
    let filter = rawdoc! { "_id": raw(document, "_id"), "version": { "$eq": version } };
    update_row(filter, update, false)
}
