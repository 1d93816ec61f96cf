//! A portion of a scan: as many certificates as the queue has room for. Reading them, writing their deliveries and marking them
//! is one unit of work: no crash and no renewal comes in between.

use bson::{DateTime, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, rawdoc};
use tracing::warn;

use super::read::Query;
use super::{Report, Scan};
use crate::kill_point;
use crate::model::EventType;
use crate::outbox::{NewDelivery, Rejected, Written};
use crate::platform::badge_user;
use crate::source::rejections::rejected_of;
use crate::store::{Result, Stopped, Unit, WriteReply, has_no_transactions, update_row};

/// However full the queue is, a portion has so many: what finds no room waits in the outbox.
const LEAST: usize = 100;

/// How a portion is taken: if the first does not do, the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// In a transaction, as if all deliveries were new: as a rule they are.
    Hopeful,
    /// In a transaction, after a look which deliveries are there already.
    Looking,
    /// By single writes: the server has no transactions, or refuses one of the marks.
    Single,
}

impl Manner {
    const ALL: [Self; 3] = [Self::Hopeful, Self::Looking, Self::Single];
}

/// A portion that is written and marked.
struct Taken {
    documents: Vec<RawDocumentBuf>,
    rejected: Vec<Rejected>,
    written: Written,
    /// `_id`s of what MongoDB refuses to change.
    refused: Vec<RawBson>,
}

impl Taken {
    /// Whether nothing stood in the way of a transaction.
    fn is_whole(&self, manner: Manner) -> bool {
        let spoiled = manner == Manner::Hopeful && self.written.known() > 0;
        self.refused.is_empty() && !spoiled
    }
}

impl Scan {
    /// Takes the next portion of what `query` finds; `false` when nothing is left.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first: of the portion then all happened or nothing.
    pub(super) async fn take_portion(
        &self,
        query: &mut Query,
        report: &mut Report,
    ) -> std::result::Result<bool, Stopped> {
        let most = self.config.get().batch_size as usize;
        let size = self.outbox.room().await.max(LEAST).min(most);
        let mut taken = None;
        for manner in Manner::ALL {
            let query = &*query;
            let take = move || self.take(query, size, manner);
            taken = self.store.persist("take expired certificates", take).await?;
            if taken.is_some() {
                break;
            }
        }
        let Some(taken) = taken.filter(|taken| !taken.documents.is_empty()) else {
            return Ok(false);
        };
        kill_point::reach("taken");
        query.advance(&taken.documents, taken.refused);
        self.rejections.note(&taken.rejected);
        let appended = self.outbox.release(taken.written);
        report.found += taken.documents.len();
        report.rejected += taken.rejected.len();
        report.deliveries += appended.fresh;
        report.known += appended.known;
        Ok(true)
    }

    /// `None` where nothing happened, but the next manner may do.
    async fn take(&self, query: &Query, size: usize, manner: Manner) -> Result<Option<Taken>> {
        let mut unit = self.store.begin(manner != Manner::Single).await?;
        let written = self.write(&mut unit, query, size, manner).await;
        if let Ok(taken) = written.as_ref()
            && (manner == Manner::Single || taken.is_whole(manner))
        {
            kill_point::reach("to-be-committed");
            unit.commit().await?;
            return written.map(Some);
        }
        unit.abort().await;
        match written {
            Ok(_) => Ok(None),
            Err(error) if manner != Manner::Single && has_no_transactions(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Outbox first, then the mark: without a transaction a crash in between costs a repetition, never an event.
    async fn write(&self, unit: &mut Unit, query: &Query, size: usize, manner: Manner) -> Result<Taken> {
        let documents = query.read(unit, &self.store, size).await?;
        let marked_at = self.clock.now();
        let (deliveries, rejected) = self.sort_out(&documents, marked_at);
        let looking = manner != Manner::Hopeful;
        let written = self.outbox.append_within(unit, deliveries, looking, marked_at).await?;
        let mut taken = Taken {
            documents,
            rejected,
            written,
            refused: Vec::new(),
        };
        if taken.is_whole(manner) {
            self.outbox.reject_within(unit, &taken.rejected, marked_at).await?;
            taken.refused = self.mark(unit, &taken.documents, marked_at).await?;
        }
        Ok(taken)
    }

    fn sort_out(&self, documents: &[RawDocumentBuf], marked_at: DateTime) -> (Vec<NewDelivery>, Vec<Rejected>) {
        let (mut deliveries, mut rejected) = (Vec::new(), Vec::new());
        for document in documents {
            match badge_user::expired(document, marked_at) {
                Ok(event) => deliveries.extend(self.deliveries(&event)),
                Err(unfit) => rejected.push(rejected_of(unfit, EventType::CertificateExpired)),
            }
        }
        (deliveries, rejected)
    }

    /// The only write to the platform's documents. Returns what MongoDB refused.
    async fn mark(&self, unit: &mut Unit, documents: &[RawDocumentBuf], now: DateTime) -> Result<Vec<RawBson>> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let rows = if unit.is_atomic() {
            vec![mark_all(documents, now)]
        } else {
            documents
                .iter()
                .map(|document| mark_if_unchanged(document, now))
                .collect()
        };
        let reply = unit.update(self.store.badge_users().name(), rows.iter()).await?;
        Ok(refused(&reply, documents, unit.is_atomic()))
    }
}

/// In a transaction nothing has changed since it was read.
fn mark_all(documents: &[RawDocumentBuf], now: DateTime) -> RawDocumentBuf {
    let ids: RawArrayBuf = documents.iter().map(|document| field(document, "_id")).collect();
    update_row(rawdoc! { "_id": { "$in": ids } }, set_mark(now), true)
}

/// Only if it still expires when it did as it was read.
fn mark_if_unchanged(document: &RawDocument, now: DateTime) -> RawDocumentBuf {
    let filter = rawdoc! {
        "_id": field(document, "_id"),
        // As a value, whatever it is: a document would be taken for operators.
        "expires": { "$eq": field(document, "expires") },
        "expiryReminderSent": { "$ne": true },
    };
    update_row(filter, set_mark(now), false)
}

fn set_mark(now: DateTime) -> RawDocumentBuf {
    rawdoc! { "$set": { "expiryReminderSent": true, "updatedAt": now } }
}

fn refused(reply: &WriteReply, documents: &[RawDocumentBuf], atomic: bool) -> Vec<RawBson> {
    let Some(first) = reply.errors.first() else {
        return Vec::new();
    };
    if !atomic {
        warn!(
            certificates = reply.errors.len(),
            code = first.code,
            "MongoDB refused to mark certificates: sent once, and found again by every scan until they can be written"
        );
    }
    let id = |index: usize| documents.get(index).map(|document| field(document, "_id"));
    reply.errors.iter().filter_map(|row| id(row.index)).collect()
}

pub(super) fn field(document: &RawDocument, name: &str) -> RawBson {
    document.get(name).ok().flatten().map_or(RawBson::Null, RawBson::from)
}
