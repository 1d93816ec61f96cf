//! Backfill: an endpoint that was added today gets to know what its organization has. Goes through the platform's collection once, in
//! pages in the order of `_id`, because no index of ours leads to an organization. The watch goes on beside it: an award waits for
//! a step of the backfill only where that is about to append the same event.

use std::time::Instant;

use bson::{Bson, DateTime, Document, RawBson, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::options::FindOptions;

use super::running::{Ended, Running, Unfinished};
use crate::failpoint;
use crate::model::{EndpointKey, EventType, id_part, key_part};
use crate::outbox::{Appended, Class, NewDelivery};
use crate::platform::{Event, Found, badge_user};
use crate::store::{OPERATIONS, Result, Transaction, Writer};

/// Certificates per page of the collection.
const PAGE: i64 = 2_000;

/// Payload bytes that are appended in one transaction.
const BUDGET: usize = 4 << 20;

/// How far it has come: `progress` and `result` in the document.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// The `_id` of the last certificate that was looked at.
    after: Option<Bson>,
    /// Deliveries that are new in the outbox.
    deliveries: i64,
    /// Deliveries that were in the outbox already.
    known: i64,
    /// Certificates that make no event, or one that the endpoint doesn't want.
    skipped: i64,
}

impl Progress {
    fn read(document: &Document) -> Self {
        let progress = document.get_document("progress").cloned().unwrap_or_default();
        let number = |name| progress.get_i64(name).unwrap_or(0);
        Self {
            after: progress.get("after").cloned(),
            deliveries: number("done"),
            known: number("known"),
            skipped: number("skipped"),
        }
    }

    fn counts(&self) -> [i64; 3] {
        [self.deliveries, self.known, self.skipped]
    }

    fn to_raw(&self) -> Result<RawDocumentBuf> {
        let mut progress = doc! { "done": self.deliveries, "known": self.known, "skipped": self.skipped };
        progress.extend(self.after.clone().map(|after| ("after".to_owned(), after)));
        Ok(RawDocumentBuf::try_from(&progress)?)
    }

    fn result(&self) -> Document {
        doc! { "deliveries": self.deliveries, "known": self.known, "skipped": self.skipped }
    }
}

/// A page of the platform's collection.
#[derive(Default)]
struct Page {
    /// The `_id`s of the certificates that are selected.
    selected: Vec<Bson>,
    /// The last `_id` of the page.
    last: Option<Bson>,
}

impl Running {
    pub(super) async fn backfill(&self, document: &Document) -> Result<Ended, Unfinished> {
        let key = EndpointKey::from_stored(self.request.selection.endpoint.as_deref().unwrap_or_default());
        let mut progress = Progress::read(document);
        while !self.cancel.is_cancelled() {
            let Some(endpoint) = self.endpoint(&key) else {
                return Ok(Ended::Failed(format!("endpoint {key} is off or not configured")));
            };
            if endpoint.event_types.is_empty() {
                return Ok(Ended::Failed(format!(
                    "endpoint {key} is subscribed to nothing, or its `eventTypes` can't be read"
                )));
            }
            let began = Instant::now();
            let page = self.persist(|| self.read_page(&key, progress.after.as_ref())).await?;
            let Some(last) = page.last else { break };
            self.rest(began.elapsed()).await?;
            self.append_page(&endpoint, &page.selected, &mut progress).await?;
            if self.cancel.is_cancelled() {
                break;
            }
            progress.after = Some(last);
            self.persist(|| self.note_progress(progress.clone())).await?;
        }
        Ok(match self.cancel.is_cancelled() {
            true => Ended::Cancelled(progress.result()),
            false => Ended::Done(progress.result()),
        })
    }

    /// Appends the events of these certificates, step by step at the rate, until the operation is cancelled.
    async fn append_page(
        &self,
        endpoint: &Subscriber,
        mut left: &[Bson],
        progress: &mut Progress,
    ) -> Result<(), Unfinished> {
        while !left.is_empty() && !self.cancel.is_cancelled() {
            let ids = &left[..left.len().min(self.backfill_step_size())];
            let began = Instant::now();
            let step = self.persist(|| self.append(endpoint, ids, progress.clone())).await?;
            self.ensure_owned()?;
            let deliveries = step.progress.deliveries.abs_diff(progress.deliveries);
            *progress = step.progress;
            left = &left[step.certificates..];
            self.executor.parts.outbox.announce(step.appended);
            self.rest(self.pause(deliveries, began.elapsed())).await?;
        }
        Ok(())
    }

    /// The endpoint, if it gets deliveries, now or later.
    fn endpoint(&self, key: &EndpointKey) -> Option<Subscriber> {
        let directory = &self.executor.parts.directory;
        match directory.find(key) {
            Found::Served(endpoint) => Some(Subscriber {
                key: endpoint.key.clone(),
                event_types: endpoint.event_types.clone(),
            }),
            Found::OutOfService { .. } => Some(Subscriber {
                key: key.clone(),
                event_types: EventType::ALL
                    .into_iter()
                    .filter(|event_type| directory.wanting(key.organization(), *event_type).contains(key))
                    .collect(),
            }),
            Found::Off { .. } | Found::Email { .. } => None,
        }
    }

    /// The next certificates in the order of their `_id`, and those of them that are selected.
    async fn read_page(&self, key: &EndpointKey, after: Option<&Bson>) -> Result<Page> {
        let collection = self.executor.parts.store.badge_users();
        // By value whatever the types: `$gt` alone would stay within one.
        let filter = after.map_or_else(
            Document::new,
            |after| doc! { "$expr": { "$gt": ["$_id", { "$literal": after }] } },
        );
        let fields = doc! { "_ownerId": 1, "creationDate": 1, "expires": 1, "expiryReminderSent": 1 };
        let find = collection
            .find(filter)
            .projection(fields)
            .sort(doc! { "_id": 1 })
            .limit(PAGE);
        let mut cursor = find.batch_size(u32::try_from(PAGE).unwrap_or(u32::MAX)).await?;
        let mut page = Page::default();
        let now = self.executor.parts.clock.now();
        while cursor.advance().await? {
            let document = cursor.current();
            let id = id_of(document);
            if self.is_selected(document, key, now) {
                page.selected.extend(id.clone());
            }
            page.last = id.or(page.last);
        }
        Ok(page)
    }

    fn is_selected(&self, document: &RawDocument, key: &EndpointKey, now: DateTime) -> bool {
        let selection = &self.request.selection;
        let is_of = document
            .get("_ownerId")
            .is_ok_and(|id| id.is_some_and(|id| id_part(id) == key.organization()));
        let is_certificate = selection.certificate.as_ref().is_none_or(|certificate| {
            document
                .get("_id")
                .is_ok_and(|id| id.is_some_and(|id| key_part(id) == *certificate))
        });
        let state = self.state_of(document, now);
        let at = state.and_then(|event_type| document.get_datetime(instant_field(event_type)).ok());
        is_of
            && is_certificate
            && at
                .is_some_and(|at| selection.from.is_none_or(|from| at >= from) && selection.to.is_none_or(|to| at < to))
    }

    /// Which event tells of the certificate's present state. One that has expired and is not marked yet is the scan's.
    fn state_of(&self, document: &RawDocument, now: DateTime) -> Option<EventType> {
        let is_past = document.get_datetime("expires").is_ok_and(|expires| expires <= now);
        match is_past {
            false => Some(EventType::CertificateCompleted),
            true if !self.request.includes_expired => None,
            true => {
                let is_marked = document.get_bool("expiryReminderSent").unwrap_or(false);
                is_marked.then_some(EventType::CertificateExpired)
            }
        }
    }

    /// Appends the events of these certificates, as they are now, after the endpoint's live traffic.
    async fn append(&self, endpoint: &Subscriber, ids: &[Bson], progress: Progress) -> Result<Step> {
        let _turn = self.turn().await;
        let parts = &self.executor.parts;
        // Read and encoded before anything is locked.
        let found = self.read_certificates(ids).await?;
        let now = parts.clock.now();
        let before = progress.counts();
        let sorted = self.sort_out(&found, endpoint, ids, progress, now);
        let (outbox, deliveries) = (&parts.outbox, sorted.deliveries);
        let mut transaction = parts.store.begin(Writer::Operations).await?;
        // After the writer, which other operations may have: the watch would wait for these, too. It needs no writer of operations.
        let _locked = outbox.lock_events(deliveries.iter()).await;
        // The first read, which begins the snapshot: after the lock.
        if let Some(made) = self.made_before(&mut transaction, before, ids, now).await? {
            // A majority must have it before the next step.
            transaction.commit().await?;
            return Ok(made);
        }
        let appended = if self.request.is_dry_run {
            let preview = outbox.preview_in_transaction(&mut transaction, &deliveries, now);
            preview.await?
        } else {
            let append = outbox.append_in_transaction(&mut transaction, deliveries, usize::MAX, now);
            append.await?
        };
        let mut progress = sorted.progress;
        progress.deliveries += i64::try_from(appended.fresh).unwrap_or(0);
        progress.known += i64::try_from(appended.known).unwrap_or(0);
        let update = rawdoc! { "$set": { "progress": progress.to_raw()? } };
        self.note_in_transaction(&mut transaction, update).await?;
        failpoint::pause("backfill-pause").await;
        failpoint::reach("step-to-be-committed");
        transaction.commit().await?;
        failpoint::reach("step-committed");
        Ok(Step {
            progress,
            appended,
            certificates: sorted.certificates,
        })
    }

    /// As a majority has them: what a failover may undo is not told of.
    async fn read_certificates(&self, ids: &[Bson]) -> Result<Vec<RawDocumentBuf>> {
        let store = &self.executor.parts.store;
        let mut options = FindOptions::default();
        options.sort = Some(doc! { "_id": 1 });
        let mut found = Vec::new();
        let add = |certificate| {
            found.push(certificate);
            true
        };
        let mut session = store.read_session().await?;
        session
            .find(store.badge_users().name(), doc! { "_id": { "$in": ids } }, options, add)
            .await?;
        Ok(found)
    }

    /// The deliveries of as many certificates as go into one transaction.
    fn sort_out(
        &self,
        found: &[RawDocumentBuf],
        endpoint: &Subscriber,
        ids: &[Bson],
        mut progress: Progress,
        now: DateTime,
    ) -> Sorted {
        let (mut deliveries, mut bytes, mut certificates) = (Vec::new(), 0, ids.len());
        for document in found {
            let event = self.event_of(document, endpoint, now);
            let size = event.as_ref().map_or(0, |event| event.message.body.len());
            if bytes > 0 && bytes + size > BUDGET {
                // Up to the last that fits: those that were deleted meanwhile are not in `found`.
                certificates = up_to(ids, progress.after.as_ref());
                break;
            }
            bytes += size;
            match event {
                Some(event) => deliveries.push(delivery(event, &endpoint.key)),
                None => progress.skipped += 1,
            }
            progress.after = id_of(document);
        }
        if certificates == ids.len() {
            progress.after = ids.last().cloned();
        }
        Sorted {
            deliveries,
            certificates,
            progress,
        }
    }

    /// The event that tells the endpoint of the certificate's present state, if it wants it.
    fn event_of(&self, document: &RawDocument, endpoint: &Subscriber, now: DateTime) -> Option<Event> {
        let event = match self.state_of(document, now)? {
            EventType::CertificateCompleted => badge_user::completed(document).ok()?,
            EventType::CertificateExpired => badge_user::expired_before(document).ok()?,
        };
        let is_of = event.organization == endpoint.key.organization();
        (is_of && endpoint.event_types.contains(&event.event_type)).then_some(event)
    }

    /// The step, if it was made by a commit that was said to have failed: then the operation's document has other counts than before it, and
    /// has come to one of `ids`. Writes its progress once more.
    async fn made_before(
        &self,
        transaction: &mut Transaction,
        before: [i64; 3],
        ids: &[Bson],
        now: DateTime,
    ) -> Result<Option<Step>> {
        let own = doc! { "_id": &self.id };
        let found = transaction.find(OPERATIONS, own, FindOptions::default()).await?;
        let document = found.first().and_then(|found| Document::try_from(found).ok());
        let Some(noted) = document.map(|document| Progress::read(&document)) else {
            return Ok(None);
        };
        let certificates = up_to(ids, noted.after.as_ref());
        if noted.counts() == before || certificates == 0 {
            return Ok(None);
        }
        let again = rawdoc! { "$set": { "progress": noted.to_raw()? } };
        self.note_in_transaction(transaction, again).await?;
        Ok(Some(Step {
            certificates,
            progress: noted,
            appended: Appended::nothing(now),
        }))
    }

    async fn note_progress(&self, progress: Progress) -> Result<()> {
        let progress = Document::try_from(progress.to_raw()?)?;
        self.update(self.own(), doc! { "$set": { "progress": progress } }).await
    }
}

/// What one transaction is about to append.
struct Sorted {
    deliveries: Vec<NewDelivery>,
    /// How many of the certificates are done with by that.
    certificates: usize,
    progress: Progress,
}

/// What one transaction did.
struct Step {
    progress: Progress,
    appended: Appended,
    /// How many of the certificates are done with: the others were too large for the same transaction.
    certificates: usize,
}

/// The endpoint, and the events that it wants.
struct Subscriber {
    key: EndpointKey,
    event_types: Vec<EventType>,
}

/// How many of them come up to that one.
fn up_to(ids: &[Bson], last: Option<&Bson>) -> usize {
    let place = ids.iter().position(|id| Some(id) == last);
    place.map_or(0, |place| place + 1)
}

fn id_of(document: &RawDocument) -> Option<Bson> {
    Bson::try_from(RawBson::from(document.get("_id").ok()??)).ok()
}

/// The field that says when it happened.
fn instant_field(event_type: EventType) -> &'static str {
    match event_type {
        EventType::CertificateCompleted => "creationDate",
        EventType::CertificateExpired => "expires",
    }
}

fn delivery(event: Event, endpoint: &EndpointKey) -> NewDelivery {
    let mut message = event.message;
    message.is_replay = true;
    NewDelivery {
        message,
        endpoint: endpoint.clone(),
        class: Class::Background,
        certificate: event.certificate,
        occurred_at: event.occurred_at,
    }
}
