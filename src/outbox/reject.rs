//! Certificates that can't be events, or that MongoDB refuses to mark: kept for the operator.

use bson::{DateTime, RawBson, RawDocumentBuf, doc, rawdoc};
use futures_util::TryStreamExt;

use super::Outbox;
use super::document::LAYOUT;
use crate::model::{EventId, EventType};
use crate::store::{OUTBOX, Result, Transaction, insert_if_absent};

/// A document that can't be an event.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// What it would have been.
    pub event_type: EventType,
    /// The BadgeUser's `_id`.
    pub certificate: RawBson,
    /// What distinguishes this rejection from a later one of the same certificate: the event's id.
    pub event_id: EventId,
    /// What is wrong, in one line.
    pub reason: String,
}

/// A certificate whose expiry went out, and that MongoDB refuses to mark. It stays unmarked until somebody corrects it.
#[derive(Clone, Debug)]
pub struct Unmarkable {
    /// The BadgeUser's `_id`.
    pub certificate: RawBson,
    /// Its `expires` when it went out.
    pub expires: RawBson,
    /// The event that went out.
    pub event_id: EventId,
    /// Why MongoDB refuses, in one line.
    pub reason: String,
}

impl Outbox {
    /// Keeps a note of these documents. Writing one again changes nothing.
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub async fn reject_in_transaction(
        &self,
        transaction: &mut Transaction,
        rejected: &[Rejected],
        now: DateTime,
    ) -> Result<()> {
        let rows: Result<Vec<_>> = rejected.iter().map(|one| insert_if_absent(&note(one, now))).collect();
        transaction.update(OUTBOX, rows?.iter()).await?;
        Ok(())
    }

    /// Notes that these certificates can't be marked, until [`Outbox::settle_unmarkable`].
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub async fn note_unmarkable_in_transaction(
        &self,
        transaction: &mut Transaction,
        unmarkable: &[Unmarkable],
        now: DateTime,
    ) -> Result<()> {
        let rows: Result<Vec<_>> = unmarkable
            .iter()
            .map(|one| insert_if_absent(&unmarkable_note(one, now)))
            .collect();
        transaction.update(OUTBOX, rows?.iter()).await?;
        Ok(())
    }

    /// The certificates that could not be marked and are not known to be marked, changed or deleted.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn unmarkable(&self) -> Result<Vec<Unmarkable>> {
        let outbox = self.store.outbox();
        let filter = doc! { "_id": { "$gte": "unmarkable/", "$lt": "unmarkable0" }, "finishedAt": null };
        let found: Vec<RawDocumentBuf> = outbox.find(filter).await?.try_collect().await?;
        Ok(found.iter().filter_map(read_unmarkable).collect())
    }

    /// These certificates are marked, changed or deleted: their documents have ended, and are deleted after the retention.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn settle_unmarkable(&self, settled: &[Unmarkable], now: DateTime) -> Result<()> {
        let ids: Vec<_> = settled
            .iter()
            .map(|one| format!("unmarkable/{}", one.event_id))
            .collect();
        let end = doc! { "$set": { "finishedAt": now }, "$inc": { "version": 1 } };
        let filter = doc! { "_id": { "$in": ids }, "finishedAt": null };
        self.store.outbox().update_many(filter, end).await?;
        Ok(())
    }
}

fn note(rejected: &Rejected, now: DateTime) -> RawDocumentBuf {
    rawdoc! {
        "_id": format!("rejected/{}", rejected.event_id),
        "v": LAYOUT,
        "version": 1,
        "state": "rejected",
        "type": rejected.event_type.as_str(),
        "certificate": rejected.certificate.clone(),
        "reason": rejected.reason.as_str(),
        "createdAt": now,
        "finishedAt": now,
    }
}

fn unmarkable_note(unmarkable: &Unmarkable, now: DateTime) -> RawDocumentBuf {
    rawdoc! {
        "_id": format!("unmarkable/{}", unmarkable.event_id),
        "v": LAYOUT,
        "version": 1,
        "state": "rejected",
        "type": EventType::CertificateExpired.as_str(),
        "certificate": unmarkable.certificate.clone(),
        "expires": unmarkable.expires.clone(),
        "reason": unmarkable.reason.as_str(),
        "createdAt": now,
    }
}

fn read_unmarkable(document: &RawDocumentBuf) -> Option<Unmarkable> {
    let value = |field| document.get(field).ok().flatten().map(RawBson::from);
    let event = document.get_str("_id").ok()?.strip_prefix("unmarkable/")?;
    Some(Unmarkable {
        certificate: value("certificate")?,
        expires: value("expires")?,
        event_id: EventId::from_stored(event),
        reason: document.get_str("reason").unwrap_or_default().to_owned(),
    })
}
