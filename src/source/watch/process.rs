//! A group of changes on its way into the outbox, with the stream's position, in one transaction.

use std::collections::HashMap;

use bson::{Bson, DateTime, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, cstr, doc};
use futures_util::TryStreamExt;
use tracing::{debug, info};

use super::position::{Move, Position, Unsaved};
use super::{Watch, token_of};
use crate::failpoint;
use crate::model::EventType;
use crate::outbox::{Appended, NewDelivery, Rejected};
use crate::platform::badge_user;
use crate::source::attempts::Attempts;
use crate::source::rejections::rejected_of;
use crate::source::scan::deliveries;
use crate::source::stream::{Ending, Item, Start};
use crate::store::{self, Kind, Stopped, Writer};

/// A group of items, sorted out.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) changes: Vec<Change>,
    /// When the stream said that nothing more had happened, and where it stood.
    pub(super) idle: Option<(Start, DateTime)>,
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

impl Group {
    pub(super) fn add(&mut self, item: Item) {
        match item {
            Item::Change(raw) => self.changes.push(Change::new(raw)),
            Item::Idle { token, at } => self.idle = Some((Start::Token(token), at)),
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
    pub(super) async fn process(&self, group: &Group, position: &mut Position) -> Result<bool, Stopped> {
        let expiries = group.changes.iter().filter_map(|change| expires(&change.raw));
        expiries.for_each(|expires| self.horizon.tell(expires));
        if group.has_awards() {
            let found = self.find(&group.changes).await?;
            let moves: Vec<_> = group.changes.iter().map(Change::moves).collect();
            if !self.append_all(found, position, Some(&moves)).await? {
                return Ok(false);
            }
        } else if let Some(last) = group.changes.last() {
            *position = position.moved(&last.moves());
        }
        if let Some((start, at)) = &group.idle {
            *position = position.moved(&Move {
                start: Some(start.clone()),
                at: Some(*at),
            });
        }
        Ok(true)
    }

    /// Writes awards found by query to the outbox; `false` if a later lease has moved the position.
    pub(super) async fn take(&self, documents: Vec<RawDocumentBuf>, position: &Position) -> Result<bool, Stopped> {
        self.directory.up_to_date(self.store.stopped(), || ()).await?;
        let found = documents.iter().map(|document| self.found(document)).collect();
        self.append_all(found, &mut position.clone(), None).await
    }

    /// Appends what was found, part by part, each with the position after it; `moves` says where the stream stood after each.
    /// Without, the position stays where it is. `false` if a later lease has moved it.
    async fn append_all(
        &self,
        mut found: Vec<Found>,
        position: &mut Position,
        moves: Option<&[Move]>,
    ) -> Result<bool, Stopped> {
        let mut done = 0;
        let mut attempts = Attempts::new(&self.store, &self.pace, "append completions");
        while done < found.len() {
            let (size, budget) = (attempts.share_of(found.len() - done), attempts.budget());
            let part = part(&found[done..], size, budget);
            let moved = moves.map(|moves| position.moved(&moves[done + part - 1]));
            match self
                .append_part(&found[done..done + part], position, moved.as_ref(), budget)
                .await
            {
                Ok(appended) => {
                    attempts.succeeded();
                    failpoint::reach("completions-committed");
                    let whole = appended.left == 0;
                    self.outbox.announce(appended);
                    if whole {
                        let rejected = found[done..done + part]
                            .iter()
                            .filter_map(|found| found.rejected.clone());
                        self.rejections.note(&rejected.collect::<Vec<_>>());
                        let unconfigured = found[done..done + part].iter().filter(|found| found.is_unconfigured);
                        self.rejections.note_unconfigured(unconfigured.count());
                        *position = moved.unwrap_or_else(|| position.clone());
                        done += part;
                    }
                }
                Err(Unsaved::Superseded) => return Ok(false),
                Err(Unsaved::Failed(error)) if error.kind() == Kind::Refused && part == 1 => {
                    if attempts.is_refusal_its_own(&error).await? {
                        found[done].reject(&error);
                    }
                }
                Err(Unsaved::Failed(error)) => attempts.failed(&error).await?,
            }
        }
        Ok(true)
    }

    async fn append_part(
        &self,
        found: &[Found],
        position: &Position,
        moved: Option<&Position>,
        budget: usize,
    ) -> Result<Appended, Unsaved> {
        let now = self.clock.now();
        let mut transaction = self.store.begin(Writer::Source).await?;
        let deliveries = found
            .iter()
            .flat_map(|found| found.deliveries.iter().cloned())
            .collect();
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
        failpoint::reach("completions-to-be-committed");
        transaction.commit().await?;
        Ok(appended)
    }

    /// What each change leads to.
    async fn find(&self, changes: &[Change]) -> Result<Vec<Found>, Stopped> {
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

    /// An update without the document as it was then: it is told with the instant from the update, and else as it is now.
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
                "a certificate has no `creationDate` yet: it is told of once it has"
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

    /// The present state of certificates whose updates carry no document. One that is gone meanwhile is not in it.
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
        let retention = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        let oldest = self.clock.now().timestamp_millis().saturating_sub(retention);
        document
            .get_datetime("creationDate")
            .is_ok_and(|at| at.timestamp_millis() >= oldest)
    }
}

impl Found {
    /// MongoDB refuses to store its deliveries.
    fn reject(&mut self, error: &store::Error) {
        let Some(delivery) = self.deliveries.first() else {
            return;
        };
        self.rejected = Some(Rejected {
            event_type: delivery.message.event_type,
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

/// The fields that an update changed, of those that matter here.
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

/// What kind of change it is.
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
