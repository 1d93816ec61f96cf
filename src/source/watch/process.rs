//! A group of changes on its way into the outbox.

use std::collections::HashMap;

use bson::{Bson, DateTime, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt;

use super::{Watch, token_of};
use crate::model::EventType;
use crate::platform::badge_user;
use crate::source::rejections::rejected_of;
use crate::source::scan::deliveries;
use crate::source::stream::{Ending, Item, Start};
use crate::store::{Result, Stopped};

/// A group of items, sorted out.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) changes: Vec<RawDocumentBuf>,
    /// Where the stream goes on after them.
    pub(super) reached: Option<Start>,
    /// When the last of them happened, or when it was known that nothing more had.
    pub(super) at: Option<DateTime>,
    pub(super) ending: Option<Ending>,
}

impl Step {
    pub(super) fn add(&mut self, item: Item) {
        match item {
            Item::Change(change) => self.add_change(change),
            Item::Idle { token, at } => {
                self.reached = Some(Start::Token(token));
                self.at = Some(at);
            }
            Item::Ended(ending) => self.ending = Some(ending),
        }
    }

    fn add_change(&mut self, change: RawDocumentBuf) {
        let invalidate = kind(&change) == "invalidate";
        if let Some(token) = token_of(&change) {
            self.reached = Some(if invalidate {
                Start::After(token)
            } else {
                Start::Token(token)
            });
        }
        if let Ok(time) = change.get_timestamp("clusterTime") {
            self.at = Some(DateTime::from_millis(i64::from(time.time) * 1000));
        }
        if change.get("documentKey").is_ok_and(|key| key.is_some()) {
            self.changes.push(change);
        }
    }
}

impl Watch {
    /// Writes the events of these changes to the outbox; returns how many are new.
    pub(super) async fn process(&self, changes: &[RawDocumentBuf]) -> std::result::Result<usize, Stopped> {
        changes
            .iter()
            .filter_map(|change| expires(change))
            .for_each(|expires| self.horizon.tell(expires));
        let changes: Vec<_> = changes.iter().filter(|change| is_award(change)).collect();
        if changes.is_empty() {
            return Ok(0);
        }
        let updated = self
            .store
            .persist("read awarded certificates", || self.read_updated(&changes))
            .await?;
        let documents = changes.iter().filter_map(|change| match kind(change) {
            "update" => updated.get(key_of(change)?.as_slice()).map(|document| &**document),
            "replace" => change
                .get_document("fullDocument")
                .ok()
                .filter(|document| self.is_recent(document)),
            _ => change.get_document("fullDocument").ok(),
        });
        self.append(documents).await
    }

    /// Writes awards found by query to the outbox.
    pub(super) async fn take(&self, batch: Vec<RawDocumentBuf>) -> Result<()> {
        let appended = self.append(batch.iter().map(|document| &**document)).await;
        appended.map(drop).map_err(mongodb::error::Error::custom)
    }

    async fn append(&self, documents: impl Iterator<Item = &RawDocument>) -> std::result::Result<usize, Stopped> {
        let now = self.clock.now();
        let (mut new, mut rejected) = (Vec::new(), Vec::new());
        for document in documents {
            match badge_user::completed(document) {
                Ok(event) => new.extend(deliveries(&self.directory, &event)),
                Err(unfit) => rejected.push(rejected_of(unfit, EventType::CertificateCompleted)),
            }
        }
        self.outbox.reject(&rejected, now).await?;
        self.rejections.note(&rejected);
        if new.is_empty() {
            return Ok(0);
        }
        Ok(self.outbox.append(new, now).await?.fresh)
    }

    /// Updates carry no document. One that is gone meanwhile is no error: nothing is awarded any more.
    async fn read_updated(&self, changes: &[&RawDocumentBuf]) -> Result<HashMap<Vec<u8>, RawDocumentBuf>> {
        let updates = changes.iter().filter(|change| kind(change) == "update");
        let ids: RawArrayBuf = updates.filter_map(|change| id_of(change)).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let ids = Bson::try_from(RawBson::Array(ids)).map_err(mongodb::error::Error::custom)?;
        let mut cursor = self.store.badge_users().find(doc! { "_id": { "$in": ids } }).await?;
        let mut found = HashMap::new();
        while let Some(document) = cursor.try_next().await? {
            let id = document.get("_id").ok().flatten().map(RawBson::from);
            found.extend(id.map(|id| (bytes(id), document)));
        }
        Ok(found)
    }

    /// A replaced document says nothing of what changed. It counts as awarded again if its `creationDate` is younger than
    /// what the outbox remembers: an older one would go out as new.
    fn is_recent(&self, document: &RawDocument) -> bool {
        let retention = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        let oldest = self.clock.now().timestamp_millis().saturating_sub(retention);
        document
            .get_datetime("creationDate")
            .is_ok_and(|at| at.timestamp_millis() >= oldest)
    }
}

/// The fields that an update changed, of those that matter here.
fn updated_fields(change: &RawDocument) -> Option<&RawDocument> {
    change
        .get_document("updateDescription")
        .ok()?
        .get_document("updatedFields")
        .ok()
}

/// Whether it is more than a changed expiry.
fn is_award(change: &RawDocument) -> bool {
    let set = |fields: &RawDocument| fields.get("creationDate").is_ok_and(|date| date.is_some());
    kind(change) != "update" || updated_fields(change).is_some_and(set)
}

/// When the certificate now expires, as far as the change says so.
fn expires(change: &RawDocument) -> Option<DateTime> {
    let document = change
        .get_document("fullDocument")
        .ok()
        .or_else(|| updated_fields(change))?;
    document.get_datetime("expires").ok()
}

/// What kind of change it is.
fn kind(change: &RawDocument) -> &str {
    change.get_str("operationType").unwrap_or_default()
}

fn id_of(change: &RawDocument) -> Option<RawBson> {
    change
        .get_document("documentKey")
        .ok()?
        .get("_id")
        .ok()?
        .map(RawBson::from)
}

fn key_of(change: &RawDocument) -> Option<Vec<u8>> {
    id_of(change).map(bytes)
}

fn bytes(id: RawBson) -> Vec<u8> {
    bson::rawdoc! { "k": id }.into_bytes()
}
