//! Changes on their way into the outbox, with the stream's position, in one transaction.

use std::collections::HashMap;

use bson::{Bson, DateTime, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, cstr, doc};
use futures_util::TryStreamExt;
use tracing::{debug, info};

use super::position::{Move, Position, Unsaved};
use super::{Watch, token_of};
use crate::failpoint;
use crate::model::{EventType, earlier};
use crate::outbox::{Appended, NewDelivery, Rejected};
use crate::platform::badge_user;
use crate::source::rejections::rejected_of;
use crate::source::scan::deliveries;
use crate::source::stream::{Ending, Item, Start};
use crate::source::transaction_size::Repetition;
use crate::store::{self, Kind, Stopped, Writer};

/// What the stream yielded at once, sorted by kind.
#[derive(Debug, Default)]
pub(super) struct Yielded {
    pub(super) changes: Vec<Change>,
    /// Where the stream was when it said that nothing more had happened.
    pub(super) idle: Option<Move>,
    pub(super) is_open: bool,
    pub(super) ending: Option<Ending>,
}

/// A change of a certificate.
#[derive(Debug)]
pub(super) struct Change {
    raw: RawDocumentBuf,
    moves: Move,
}

/// What a change, or a certificate found by query, leads to.
#[derive(Debug, Default)]
pub(super) struct Found {
    deliveries: Vec<NewDelivery>,
    rejected: Option<Rejected>,
    /// Its organization has no configuration document.
    is_unconfigured: bool,
}

impl Yielded {
    pub(super) fn add(&mut self, item: Item) {
        match item {
            Item::Open => self.is_open = true,
            Item::Change(raw) => self.changes.push(Change::new(raw)),
            Item::Idle { token, at } => {
                self.idle = Some(Move {
                    start: Some(Start::Token(token)),
                    at: Some(at),
                });
            }
            Item::Ended(ending) => self.ending = Some(ending),
        }
    }

    pub(super) fn has_awards(&self) -> bool {
        self.changes.iter().any(Change::is_award)
    }
}

impl Change {
    fn new(raw: RawDocumentBuf) -> Self {
        let invalidate = kind(&raw) == "invalidate";
        let start = token_of(&raw).map(|token| match invalidate {
            true => Start::After(token),
            false => Start::Token(token),
        });
        let at = raw.get_timestamp("clusterTime").ok();
        let at = at.map(|time| DateTime::from_millis(i64::from(time.time) * 1000));
        Self {
            moves: Move { start, at },
            raw,
        }
    }

    fn moves(&self) -> Move {
        self.moves.clone()
    }

    /// Whether it is an award, or an award made again: more than a changed expiry.
    fn is_award(&self) -> bool {
        match kind(&self.raw) {
            "insert" | "replace" => true,
            "update" => awarded_at(&self.raw).is_some(),
            _ => false,
        }
    }
}

impl Watch {
    /// Writes the events of these changes to the outbox and moves the position after them; `false` if a later lease has moved it.
    pub(super) async fn process(&self, yielded: &Yielded, position: &mut Position) -> Result<bool, Stopped> {
        let expiries = yielded.changes.iter().filter_map(|change| expires(&change.raw));
        expiries.for_each(|expires| self.horizon.add(expires));
        if yielded.has_awards() {
            let found = self.events_of(&yielded.changes).await?;
            let moves: Vec<_> = yielded.changes.iter().map(Change::moves).collect();
            if !self.append_all(found, position, Some(&moves)).await? {
                return Ok(false);
            }
        } else if let Some(last) = yielded.changes.last() {
            *position = position.moved(&last.moves());
        }
        if let Some(idle) = &yielded.idle {
            *position = position.moved(idle);
        }
        Ok(true)
    }

    /// Appends awards that a query found to the outbox; `false` if a later lease has moved the position.
    pub(super) async fn append_missed(
        &self,
        documents: Vec<RawDocumentBuf>,
        position: &Position,
    ) -> Result<bool, Stopped> {
        self.directory.up_to_date(self.store.stopped(), || ()).await?;
        let found = documents.iter().map(|document| self.found(document)).collect();
        self.append_all(found, &mut position.clone(), None).await
    }

    /// Appends what was found, part by part, each with the position after it; `moves` says where the stream was after each.
    /// Without, the position stays where it is. `false` if a later lease has moved it.
    async fn append_all(
        &self,
        mut found: Vec<Found>,
        position: &mut Position,
        moves: Option<&[Move]>,
    ) -> Result<bool, Stopped> {
        let mut done = 0;
        let mut repetition = Repetition::new(&self.store, &self.transaction_size, "append completions");
        while done < found.len() {
            let size = self.transaction_size.share_of(found.len() - done);
            let budget = self.transaction_size.budget();
            let part = done..done + part(&found[done..], size, budget);
            let moved = moves.map(|moves| position.moved(&moves[part.end - 1]));
            match self
                .append_part(&found[part.clone()], position, moved.as_ref(), budget)
                .await
            {
                Ok(appended) => {
                    repetition.succeeded();
                    failpoint::reach("completions-committed");
                    let is_whole = appended.left == 0;
                    self.outbox.announce(appended);
                    if is_whole {
                        self.count_unsent(&found[part.clone()]);
                        *position = moved.unwrap_or_else(|| position.clone());
                        done = part.end;
                    }
                }
                Err(Unsaved::Superseded) => return Ok(false),
                Err(Unsaved::Failed(error)) if error.kind() == Kind::Refused && part.len() == 1 => {
                    if repetition.is_refusal_its_own(&error).await? {
                        found[done].reject(&error);
                    }
                }
                Err(Unsaved::Failed(error)) => repetition.failed(&error).await?,
            }
        }
        Ok(true)
    }

    /// What was recorded as rejected, and what nobody can have asked for.
    fn count_unsent(&self, found: &[Found]) {
        let rejected: Vec<_> = found.iter().filter_map(|found| found.rejected.clone()).collect();
        self.rejections.report(&rejected);
        let unconfigured = found.iter().filter(|found| found.is_unconfigured).count();
        self.rejections.count_unconfigured(unconfigured);
    }

    async fn append_part(
        &self,
        found: &[Found],
        position: &Position,
        moved: Option<&Position>,
        budget: usize,
    ) -> Result<Appended, Unsaved> {
        let now = self.clock.now();
        let deliveries = found.iter().flat_map(|found| found.deliveries.iter());
        // A backfill may be appending the same event.
        let _locked = self.outbox.lock_events(deliveries.clone()).await;
        let mut transaction = self.store.begin(Writer::Source).await?;
        let deliveries = deliveries.cloned().collect();
        let append = self
            .outbox
            .append_in_transaction(&mut transaction, deliveries, budget, now);
        let appended = append.await?;
        if appended.left == 0 {
            let rejected: Vec<_> = found.iter().filter_map(|found| found.rejected.clone()).collect();
            self.outbox
                .reject_in_transaction(&mut transaction, &rejected, now)
                .await?;
        }
        match moved.filter(|_| appended.left == 0) {
            Some(moved) => moved.save_in_transaction(&mut transaction).await?,
            None => position.check_in_transaction(&mut transaction).await?,
        }
        failpoint::pause("completions-pause").await;
        failpoint::reach("completions-to-be-committed");
        transaction.commit().await?;
        Ok(appended)
    }

    /// The events of each change.
    async fn events_of(&self, changes: &[Change]) -> Result<Vec<Found>, Stopped> {
        let read = || self.read_updated(changes);
        let updated = self.store.persist("read awarded certificates", read).await?;
        Ok(changes
            .iter()
            .map(|change| match change.is_award() {
                true => self.found_by(change, &updated),
                false => Found::default(),
            })
            .collect())
    }

    fn found_by(&self, change: &Change, updated: &HashMap<Vec<u8>, RawDocumentBuf>) -> Found {
        let raw = &change.raw;
        let full = raw.get_document("fullDocument").ok();
        match (kind(raw), full) {
            ("replace", Some(document)) if !self.is_recent(document) => Found::default(),
            (_, Some(document)) => self.found(document),
            _ => self.found_later(raw, key_of(raw).and_then(|key| updated.get(&key))),
        }
    }

    /// An update without the document as it was then: it is sent with the instant from the update, and else as it is now.
    fn found_later(&self, change: &RawDocument, current: Option<&RawDocumentBuf>) -> Found {
        let certificate = id_of(change).map(|id| format!("{id:?}")).unwrap_or_default();
        let Some(current) = current else {
            info!(
                certificate,
                "a certificate was awarded again and deleted before it could be read: nothing is sent"
            );
            return Found::default();
        };
        let awarded_at = awarded_at(change);
        if current.get("creationDate").ok().flatten().map(RawBson::from) == awarded_at {
            return self.found(current);
        }
        info!(
            certificate,
            "a certificate was awarded again, and once more before it could be read: the first is sent with its later content"
        );
        let mut then = RawDocumentBuf::new();
        for (name, value) in current.iter().flatten() {
            match (name.as_str(), &awarded_at) {
                ("creationDate", Some(awarded_at)) => then.append(name, awarded_at.clone()),
                _ => then.append(name, RawBson::from(value)),
            }
        }
        // It was taken back meanwhile.
        if let (Some(awarded_at), Ok(None)) = (awarded_at, then.get("creationDate")) {
            then.append(cstr!("creationDate"), awarded_at);
        }
        self.found(&then)
    }

    fn found(&self, document: &RawDocument) -> Found {
        if !badge_user::is_awarded(document) {
            let certificate = document.get("_id").ok().flatten();
            debug!(
                ?certificate,
                "a certificate has no `creationDate` yet: nothing is sent until it has"
            );
            return Found::default();
        }
        match badge_user::completed(document) {
            Ok(event) => Found {
                deliveries: deliveries(&self.directory, &event),
                rejected: None,
                is_unconfigured: !self.directory.knows_organization(&event.organization),
            },
            Err(unfit) => Found {
                rejected: Some(rejected_of(unfit, EventType::CertificateCompleted)),
                ..Found::default()
            },
        }
    }

    /// Certificates whose updates carry no document, as they are now. One that was deleted meanwhile is not among them.
    async fn read_updated(&self, changes: &[Change]) -> store::Result<HashMap<Vec<u8>, RawDocumentBuf>> {
        let lacking = |change: &&Change| {
            kind(&change.raw) == "update" && change.is_award() && change.raw.get_document("fullDocument").is_err()
        };
        let ids: RawArrayBuf = changes
            .iter()
            .filter(lacking)
            .filter_map(|change| id_of(&change.raw))
            .collect();
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
        let oldest = earlier(self.clock.now(), self.retention);
        document.get_datetime("creationDate").is_ok_and(|at| at >= oldest)
    }
}

impl Found {
    /// MongoDB refuses to store its deliveries.
    fn reject(&mut self, error: &store::Error) {
        let Some(delivery) = self.deliveries.first() else {
            return;
        };
        self.rejected = Some(Rejected {
            event_type: EventType::CertificateCompleted,
            certificate: delivery.certificate.clone(),
            event_id: delivery.message.event_id.clone(),
            reason: format!("MongoDB refuses to store its deliveries: {error}"),
        });
        self.deliveries.clear();
    }
}

/// How many of what was found go into one transaction: `size`, and `budget` bytes; at least one.
fn part(found: &[Found], size: usize, budget: usize) -> usize {
    let mut bytes = 0;
    let fits = found.iter().take(size).take_while(|found| {
        bytes += found
            .deliveries
            .iter()
            .map(|delivery| delivery.message.body.len())
            .sum::<usize>();
        bytes <= budget
    });
    fits.count().max(1)
}

/// Those of an update's changed fields that [`stream`](crate::source::stream) asks for.
fn updated_fields(change: &RawDocument) -> Option<&RawDocument> {
    let description = change.get_document("updateDescription").ok()?;
    description.get_document("updatedFields").ok()
}

/// What an update has set `creationDate` to; `None` too if that takes it back.
fn awarded_at(change: &RawDocument) -> Option<RawBson> {
    let fields = updated_fields(change)?;
    let date = fields.get("creationDate").ok()??;
    badge_user::is_awarded(fields).then(|| RawBson::from(date))
}

/// When the certificate now expires, as far as the change says so.
fn expires(change: &RawDocument) -> Option<DateTime> {
    let document = change
        .get_document("fullDocument")
        .ok()
        .or_else(|| updated_fields(change))?;
    document.get_datetime("expires").ok()
}

fn kind(change: &RawDocument) -> &str {
    change.get_str("operationType").unwrap_or_default()
}

fn id_of(change: &RawDocument) -> Option<RawBson> {
    let key = change.get_document("documentKey").ok()?;
    key.get("_id").ok()?.map(RawBson::from)
}

fn key_of(change: &RawDocument) -> Option<Vec<u8>> {
    id_of(change).map(bytes)
}

fn bytes(id: RawBson) -> Vec<u8> {
    bson::rawdoc! { "k": id }.into_bytes()
}
