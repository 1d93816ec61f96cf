//! A page of a scan: reading certificates, appending their deliveries and marking them is one transaction, so no crash and no
//! renewal comes in between.

use std::collections::HashSet;

use bson::{DateTime, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, rawdoc};
use tokio::sync::watch;
use tracing::warn;

use super::read::Query;
use super::unmarkable::key;
use super::{Report, Scan};
use crate::failpoint;
use crate::model::EventType;
use crate::outbox::{Appended, NewDelivery, Rejected, Unmarkable};
use crate::platform::{Event, badge_user};
use crate::source::rejections::rejected_of;
use crate::source::transaction_size::Repetition;
use crate::store::{self, Kind, Stopped, Transaction, Writer, update_row};

/// What is about to be written.
struct Page {
    /// What `updatedAt` will be.
    marked_at: DateTime,
    documents: Vec<RawDocumentBuf>,
    deliveries: Vec<NewDelivery>,
    rejected: Vec<Rejected>,
    /// Certificates that MongoDB refuses to mark.
    unmarkable: Vec<Unmarkable>,
    /// How many are of organizations that have no configuration document.
    unconfigured: usize,
}

impl Page {
    fn new(marked_at: DateTime) -> Self {
        Self {
            marked_at,
            documents: Vec::new(),
            deliveries: Vec::new(),
            rejected: Vec::new(),
            unmarkable: Vec::new(),
            unconfigured: 0,
        }
    }
}

/// A page that is written.
struct Written {
    page: Page,
    appended: Appended,
    /// Its only certificate has more deliveries than went into the transaction.
    goes_on: bool,
}

/// Pages that are scanned two at a time.
struct Pairs {
    reading: tokio::sync::Mutex<Reading>,
    /// How many pages are announced, or given up.
    announced: watch::Sender<usize>,
    report: parking_lot::Mutex<Report>,
}

/// What is read next.
struct Reading {
    query: Query,
    /// The number of that page, from 0.
    turn: usize,
}

/// Where a page failed.
enum Failed {
    Append(store::Error, Page),
    Mark(store::Error, Page),
    Elsewhere(store::Error),
}

impl Scan {
    /// Reads, appends and marks the next page of what `query` finds; `false` when nothing is left.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first: of the page then all happened or nothing.
    pub(super) async fn scan_page(&self, query: &mut Query, report: &mut Report) -> Result<bool, Stopped> {
        let most = self.config.get().batch_size as usize;
        let mut repetition = Repetition::new(&self.store, &self.transaction_size, "take expired certificates");
        loop {
            self.directory.up_to_date(self.stop.cancelled(), || ()).await?;
            let size = self.transaction_size.share_of(most);
            let budget = self.transaction_size.budget();
            match self.write_page(query, size, budget).await {
                Ok(None) => {
                    repetition.succeeded();
                    return Ok(false);
                }
                Ok(Some(written)) => {
                    repetition.succeeded();
                    failpoint::reach("page-committed");
                    if !written.goes_on
                        && let Some(last) = written.page.documents.last()
                    {
                        query.advance(last);
                    }
                    self.finish(written, report);
                    return Ok(true);
                }
                Err(Failed::Mark(error, page) | Failed::Append(error, page))
                    if error.kind() == Kind::Conflict && !error.lacks_index() =>
                {
                    self.look_for_locked(&page.documents, &error, &mut repetition).await?;
                }
                Err(Failed::Mark(error, page)) if error.kind() == Kind::Refused => {
                    self.suspect_unmarkable(&page, &error, &mut repetition).await?;
                }
                Err(Failed::Append(error, page)) if error.kind() == Kind::Refused && page.documents.len() == 1 => {
                    if repetition.is_refusal_its_own(&error).await? {
                        self.unstorable.remember(&page.documents[0], &error);
                    }
                }
                Err(Failed::Append(error, _) | Failed::Mark(error, _) | Failed::Elsewhere(error)) => {
                    repetition.failed(&error).await?;
                    if error.lacks_index() {
                        let create = self.config.get().ensure_indexes;
                        query.read_index_again(&self.store, create).await;
                    }
                }
            }
        }
    }

    fn finish(&self, written: Written, report: &mut Report) {
        let Written {
            page,
            appended,
            goes_on,
        } = written;
        report.deliveries += appended.fresh;
        report.known += appended.known;
        self.outbox.announce(appended);
        if goes_on {
            return;
        }
        self.rejections.report(&page.rejected);
        self.rejections.count_unconfigured(page.unconfigured);
        report.found += page.documents.len();
        report.rejected += page.rejected.len();
        self.unmarkable.add(page.unmarkable);
    }

    /// Scans pages as long as all goes well, two at a time: one is read while the other is being written, or both are written.
    /// They are announced in order. What goes wrong is left to [`Scan::scan_page`].
    pub(super) async fn scan_pages_in_pairs(&self, query: &Query, report: &mut Report) {
        let Some(query) = query.for_pairs() else { return };
        let pairs = Pairs {
            reading: tokio::sync::Mutex::new(Reading { query, turn: 0 }),
            announced: watch::Sender::new(0),
            report: parking_lot::Mutex::new(std::mem::take(report)),
        };
        let (one, other) = (Writer::Scan, Writer::ScanSecond);
        tokio::join!(self.scan_pages(one, &pairs), self.scan_pages(other, &pairs));
        *report = pairs.report.into_inner();
    }

    async fn scan_pages(&self, writer: Writer, pairs: &Pairs) {
        let most = self.config.get().batch_size as usize;
        while !self.stop.is_cancelled() {
            if self.directory.up_to_date(self.stop.cancelled(), || ()).await.is_err() {
                return;
            }
            let size = self.transaction_size.share_of(most);
            let budget = self.transaction_size.budget();
            let Ok(mut transaction) = self.store.begin(writer).await else {
                return;
            };
            let mut reading = pairs.reading.lock().await;
            let read = self.read(&mut transaction, &reading.query, size, budget).await;
            let Ok(Some(page)) = read else {
                transaction.abort().await;
                return;
            };
            if let Some(last) = page.documents.last() {
                reading.query.advance(last);
            }
            let turn = reading.turn;
            reading.turn += 1;
            drop(reading);
            let written = self.write_of_pair(transaction, page, budget).await;
            // Fails only once the sender is dropped, and that is here.
            let _ = pairs
                .announced
                .subscribe()
                .wait_for(|announced| *announced == turn)
                .await;
            let is_written = written.is_some();
            if let Some(written) = written {
                self.finish(written, &mut pairs.report.lock());
            }
            pairs.announced.send_modify(|announced| *announced += 1);
            if !is_written {
                return;
            }
        }
    }

    async fn write_of_pair(&self, mut transaction: Transaction, page: Page, budget: usize) -> Option<Written> {
        match self.write(&mut transaction, page, budget).await {
            Ok(written) if !written.goes_on => {
                failpoint::reach("page-to-be-committed");
                transaction.commit().await.ok()?;
                failpoint::reach("page-committed");
                Some(written)
            }
            _ => {
                transaction.abort().await;
                None
            }
        }
    }

    async fn write_page(&self, query: &Query, size: usize, budget: usize) -> Result<Option<Written>, Failed> {
        let mut transaction = self.store.begin(Writer::Scan).await.map_err(Failed::Elsewhere)?;
        let read = self.read(&mut transaction, query, size, budget).await;
        let Some(page) = read.map_err(Failed::Elsewhere)? else {
            transaction.abort().await;
            return Ok(None);
        };
        let written = self.write(&mut transaction, page, budget).await?;
        failpoint::reach("page-to-be-committed");
        transaction.commit().await.map_err(Failed::Elsewhere)?;
        Ok(Some(written))
    }

    async fn read(
        &self,
        transaction: &mut Transaction,
        query: &Query,
        size: usize,
        budget: usize,
    ) -> store::Result<Option<Page>> {
        let is_left_out =
            |document: &RawDocumentBuf| self.unmarkable.contains(document) || self.locked.contains(document);
        let documents = query.read(transaction, &self.store, size, is_left_out).await?;
        Ok((!documents.is_empty()).then(|| self.page_of(documents, budget)))
    }

    async fn write(&self, transaction: &mut Transaction, mut page: Page, budget: usize) -> Result<Written, Failed> {
        let marked_at = page.marked_at;
        let deliveries = std::mem::take(&mut page.deliveries);
        let append = self
            .outbox
            .append_in_transaction(transaction, deliveries, budget, marked_at);
        let appended = match append.await {
            Ok(appended) => appended,
            Err(error) => return Err(Failed::Append(error, page)),
        };
        let goes_on = appended.left > 0;
        if !goes_on {
            let recorded = self.record_exceptions(transaction, &page).await;
            recorded.map_err(Failed::Elsewhere)?;
            if let Err(error) = self.mark(transaction, &page).await {
                return Err(Failed::Mark(error, page));
            }
        }
        Ok(Written {
            page,
            appended,
            goes_on,
        })
    }

    /// The events of as many documents as go into one page.
    fn page_of(&self, documents: Vec<RawDocumentBuf>, budget: usize) -> Page {
        let mut page = Page::new(self.clock.now());
        let mut bytes = 0;
        for document in documents {
            let event = match self.event_of(&document, page.marked_at) {
                Ok(event) => event,
                Err(rejected) => {
                    page.rejected.push(rejected);
                    page.documents.push(document);
                    continue;
                }
            };
            let deliveries = self.deliveries(&event);
            let is_unconfigured = !self.directory.knows_organization(&event.organization);
            let more = deliveries.len() * event.message.body.len();
            if bytes > 0 && bytes + more > budget {
                break;
            }
            bytes += more;
            if let Some(reason) = self.unmarkable.suspected(&document) {
                page.unmarkable.push(Unmarkable {
                    certificate: field(&document, "_id"),
                    expires: field(&document, "expires"),
                    event_id: event.message.event_id.clone(),
                    reason,
                });
            }
            page.unconfigured += usize::from(is_unconfigured);
            page.deliveries.extend(deliveries);
            page.documents.push(document);
        }
        page
    }

    fn event_of(&self, document: &RawDocument, marked_at: DateTime) -> Result<Event, Rejected> {
        let event_type = EventType::CertificateExpired;
        let event = badge_user::expired(document, marked_at).map_err(|unfit| rejected_of(unfit, event_type))?;
        match self.unstorable.reason(&event.message.event_id) {
            None => Ok(event),
            Some(reason) => Err(Rejected {
                event_type,
                certificate: event.certificate,
                event_id: event.message.event_id,
                reason,
            }),
        }
    }

    /// Records what can't be an event, and what can't be marked.
    async fn record_exceptions(&self, transaction: &mut Transaction, page: &Page) -> store::Result<()> {
        self.outbox
            .reject_in_transaction(transaction, &page.rejected, page.marked_at)
            .await?;
        self.outbox
            .note_unmarkable_in_transaction(transaction, &page.unmarkable, page.marked_at)
            .await
    }

    /// The only write to the platform's documents. In a transaction nothing has changed since it was read.
    async fn mark(&self, transaction: &mut Transaction, page: &Page) -> store::Result<()> {
        let unmarkable: HashSet<_> = page.unmarkable.iter().map(|one| key(&one.certificate)).collect();
        let ids: RawArrayBuf = page
            .documents
            .iter()
            .filter(|document| unmarkable.is_empty() || !unmarkable.contains(&key(&field(document, "_id"))))
            .map(|document| field(document, "_id"))
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mark = rawdoc! { "$set": { "expiryReminderSent": true, "updatedAt": page.marked_at } };
        let row = update_row(rawdoc! { "_id": { "$in": ids } }, mark, true);
        transaction
            .update(self.store.badge_users().name(), [row].iter())
            .await?;
        Ok(())
    }

    /// MongoDB refuses to mark some certificate of a page: asks which, by its validator as far as that says, else by halves.
    async fn suspect_unmarkable(
        &self,
        page: &Page,
        error: &store::Error,
        repetition: &mut Repetition<'_>,
    ) -> Result<(), Stopped> {
        let ids: Vec<RawBson> = page.documents.iter().map(|document| field(document, "_id")).collect();
        let invalid = super::unmarkable::refused_by_validator(&self.store, &ids, self.clock.now()).await;
        let mut suspects = invalid.unwrap_or_default();
        if suspects.is_empty() && ids.len() == 1 && repetition.is_refusal_its_own(error).await? {
            suspects = ids;
        }
        if suspects.is_empty() {
            return repetition.smaller(error).await;
        }
        warn!(
            certificates = suspects.len(), error = %error,
            "MongoDB refuses to mark certificates: their expiry is sent once, and they stay unmarked until they can be written; the others go on"
        );
        self.unmarkable.suspect(&suspects, &error.to_string());
        Ok(())
    }
}

pub(super) fn field(document: &RawDocument, name: &str) -> RawBson {
    document.get(name).ok().flatten().map_or(RawBson::Null, RawBson::from)
}
