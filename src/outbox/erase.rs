//! Erasing what the outbox holds of a user or a certificate: payloads and bodies of responses go, what waits is cancelled, and the
//! record of each delivery stays, without the user's id.

use std::time::{Duration, Instant};

use bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, cstr, doc, rawdoc};
use mongodb::options::AggregateOptions;

use super::Outbox;
use super::document::{field, hint, result_field};
use super::selection::ids_from;
use super::settled::has_result;
use super::versions::compared_row;
use crate::model::{EndpointKey, EventType};
use crate::statistics::Additions;
use crate::store::{OUTBOX, Result, STATISTICS, Transaction};

/// What an erased delivery was cancelled for.
const REASON: &str = "erased";

/// Documents that a page of a walk looks at, at most.
const PAGE: i64 = 256;

/// MongoDB looks at this many before it replies: a document may have 16 MB.
const READ: u32 = 16;

/// A page ends after this time, with what MongoDB has looked at.
const PAGE_TIME: Duration = Duration::from_millis(100);

/// Documents of a certificate that are found at a time.
const FOUND: i64 = 100;

/// Whose payloads are erased.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A user: what a payload of theirs holds, as JSON; one of these.
    User(Vec<String>),
    /// A certificate: its id as it is in the ids of its events; one of these.
    Certificate(Vec<String>),
}

/// What was found of a subject.
#[derive(Debug, Default)]
pub struct Traces {
    /// Documents, without payloads.
    pub found: Vec<RawDocumentBuf>,
    /// The `_id` of the last document that was looked at.
    pub last: Option<Bson>,
    /// Whether no document follows.
    pub is_end: bool,
}

/// What was erased, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Deliveries that have lost their payload.
    pub deliveries: i64,
    /// Those of them that waited.
    pub cancelled: i64,
    /// Documents of the outbox.
    pub documents: i64,
}

impl std::ops::AddAssign for Erased {
    fn add_assign(&mut self, other: Self) {
        self.deliveries += other.deliveries;
        self.cancelled += other.cancelled;
        self.documents += other.documents;
    }
}

impl Subject {
    /// Whether a delivery, the variable `one`, is the subject's and not erased yet. Whatever is in its place is no fault.
    fn is_meant(&self) -> Document {
        let (field, conditions): (_, Vec<Document>) = match self {
            Self::User(texts) => {
                let holds = |text: &String| doc! { "$gte": [{ "$indexOfBytes": ["$$text", { "$literal": text }] }, 0] };
                ("$$one.payload", texts.iter().map(holds).collect())
            }
            Self::Certificate(keys) => {
                let begins = |prefix| doc! { "$eq": [{ "$indexOfBytes": ["$$text", { "$literal": prefix }] }, 0] };
                ("$$one.event", prefixes(keys).map(begins).collect())
            }
        };
        let text = doc! { "$cond": [{ "$eq": [{ "$type": field }, "string"] }, field, ""] };
        let is_one = doc! { "$let": { "vars": { "text": text }, "in": { "$or": conditions } } };
        doc! { "$and": [{ "$ne": ["$$one.erased", true] }, is_one] }
    }

    /// Stages that leave of each document what a row needs to know, and of one that holds nothing of the subject the `_id`.
    fn stages(&self) -> [Document; 2] {
        let size = |field: &str| doc! { "$cond": [{ "$isArray": field }, { "$size": field }, 0] };
        let place = doc! { "$let": {
            "vars": { "one": { "$arrayElemAt": ["$deliveries", "$$place"] } }, "in": self.is_meant(),
        } };
        let places =
            doc! { "$filter": { "input": { "$range": [0, size("$deliveries")] }, "as": "place", "cond": place } };
        let fields = doc! {
            "version": 1, "state": 1, "endpoint": 1, "results": 1, "size": size("$deliveries"), "attempts": size("$history"),
            "places": places,
        };
        let shown = doc! { "$cond": [{ "$eq": ["$places", []] }, { "_id": "$_id" }, "$$ROOT"] };
        [doc! { "$project": fields }, doc! { "$replaceWith": shown }]
    }
}

/// How the ids of these certificates' events begin.
fn prefixes(keys: &[String]) -> impl Iterator<Item = String> {
    keys.iter()
        .flat_map(|key| EventType::ALL.map(|event_type| event_type.id_prefix(key)))
}

/// The deliveries of a document that are the subject's.
struct Meant {
    places: Vec<u32>,
    /// Those of them that have no result.
    open: Vec<u32>,
    /// Deliveries of others that have none.
    left: usize,
    /// Those of them that count: one that has moved is counted in its own document.
    deliveries: i64,
    state: State,
    attempts: i32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Dead,
    Ended,
}

impl Meant {
    fn read(found: &RawDocument) -> Option<Self> {
        let places = found.get_array("places").ok()?.into_iter().flatten();
        let places: Vec<u32> = places.filter_map(|place| u32::try_from(place.as_i32()?).ok()).collect();
        if places.is_empty() {
            return None;
        }
        let results = found.get_array("results").ok();
        let is_open = |place: &u32| !has_result(results, *place as usize);
        let has_moved = |place: &&u32| {
            let result = results.and_then(|results| results.get_document(**place as usize).ok());
            result.is_some_and(|result| result.get_bool("moved").unwrap_or(false))
        };
        let state = match found.get_str("state") {
            Ok("pending") => State::Pending,
            Ok("dead") => State::Dead,
            _ => State::Ended,
        };
        let size = u32::try_from(found.get_i32("size").ok()?).ok()?;
        let open: Vec<u32> = places.iter().copied().filter(is_open).collect();
        Some(Self {
            left: (0..size).filter(is_open).count() - open.len(),
            deliveries: count(places.iter().filter(|place| !has_moved(place)).count()),
            places,
            open,
            state,
            attempts: found.get_i32("attempts").unwrap_or(0),
        })
    }

    /// Those that are cancelled, of those that waited.
    fn cancelled(&self) -> i64 {
        if self.state == State::Pending {
            count(self.open.len())
        } else {
            0
        }
    }

    fn erased(&self) -> Erased {
        Erased {
            deliveries: self.deliveries,
            cancelled: self.cancelled(),
            documents: 1,
        }
    }

    fn row(&self, found: &RawDocument, now: DateTime) -> RawDocumentBuf {
        let (mut set, mut unset) = (RawDocumentBuf::new(), RawDocumentBuf::new());
        for place in &self.places {
            set.append(field(format!("deliveries.{place}.erased")), true);
            unset.append(field(format!("deliveries.{place}.payload")), 1);
        }
        for attempt in 0..self.attempts {
            unset.append(field(format!("history.{attempt}.response")), 1);
        }
        if self.state == State::Ended || self.open.is_empty() {
            return compared_row(found, set, unset);
        }
        if self.left == 0 {
            set.append(cstr!("state"), "cancelled");
            set.append(cstr!("reason"), REASON);
            set.append(cstr!("finishedAt"), now);
            unset.append(cstr!("redrivable"), 1);
        } else {
            set.append(cstr!("open"), i32::try_from(self.left).unwrap_or(i32::MAX));
            for place in &self.open {
                set.append(result_field(*place), rawdoc! { "at": now, "cancelled": true });
            }
        }
        unset.append(cstr!("redriven"), 1);
        compared_row(found, set, unset)
    }
}

/// What would be erased of a document that was found.
pub fn would_erase(found: &RawDocument) -> Erased {
    Meant::read(found).map_or_else(Erased::default, |meant| meant.erased())
}

impl Outbox {
    /// Looks at some documents in the order of their `_id`s, those after `place`, for what they hold of the subject. MongoDB looks:
    /// no payload is read.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn traces_after(&self, subject: &Subject, place: Option<&Bson>) -> Result<Traces> {
        // By this operator, because an `_id` of another type follows too.
        let mut pipeline: Vec<_> = place
            .map(|place| doc! { "$match": { "$expr": { "$gt": ["$_id", { "$literal": place }] } } })
            .into_iter()
            .collect();
        pipeline.extend([doc! { "$sort": { "_id": 1 } }, doc! { "$limit": PAGE }]);
        pipeline.extend(subject.stages());
        let mut options = AggregateOptions::default();
        options.hint = Some(hint("_id_"));
        options.batch_size = Some(READ);
        let (mut traces, mut seen, began) = (Traces::default(), 0, Instant::now());
        let mut session = self.store.read_session().await?;
        let take = |document: RawDocumentBuf| {
            seen += 1;
            traces.last = document
                .get("_id")
                .ok()
                .flatten()
                .and_then(|id| Bson::try_from(id).ok());
            if document.get("places").is_ok_and(|places| places.is_some()) {
                traces.found.push(document);
            }
            seen % i64::from(READ) != 0 || began.elapsed() < PAGE_TIME
        };
        let is_whole = session.aggregate(OUTBOX, pipeline, options, take).await?;
        traces.is_end = is_whole && seen < PAGE;
        Ok(traces)
    }

    /// The documents that hold something of the subject, a certificate, `limit`ed to a hundred or not; without those `except`.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn traces_of(&self, subject: &Subject, except: &[String], limit: bool) -> Result<Vec<RawDocumentBuf>> {
        let Subject::Certificate(keys) = subject else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for prefix in prefixes(keys) {
            let events = doc! { "event": ids_from(&prefix), "erased": { "$ne": true } };
            let filter = doc! { "deliveries": { "$elemMatch": events }, "_id": { "$nin": except, "$type": "string" } };
            let mut pipeline = vec![doc! { "$match": filter }];
            pipeline.extend(limit.then(|| doc! { "$limit": FOUND }));
            pipeline.extend(subject.stages());
            let options = AggregateOptions::builder().hint(hint("events")).build();
            let mut session = self.store.read_session().await?;
            let take = |document| {
                found.push(document);
                true
            };
            session.aggregate(OUTBOX, pipeline, options, take).await?;
        }
        Ok(found)
    }

    /// Erases what these documents hold of the subject, and counts what waited as cancelled in the statistics if `is_counted`.
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub async fn erase_in_transaction(
        &self,
        transaction: &mut Transaction,
        ids: &[String],
        subject: &Subject,
        now: DateTime,
        is_counted: bool,
    ) -> Result<Erased> {
        let mut pipeline = vec![doc! { "$match": { "_id": { "$in": ids } } }];
        pipeline.extend(subject.stages());
        let found = transaction.aggregate(OUTBOX, pipeline).await?;
        let (mut rows, mut erased, mut statistics) = (Vec::new(), Erased::default(), Additions::default());
        for document in &found {
            let Some(meant) = Meant::read(document) else {
                continue;
            };
            rows.push(meant.row(document, now));
            erased += meant.erased();
            if let (1.., Ok(endpoint)) = (meant.cancelled(), document.get_str("endpoint")) {
                statistics.of(&EndpointKey::from_stored(endpoint)).cancelled += meant.cancelled();
            }
        }
        transaction.update(OUTBOX, rows.iter()).await?;
        if is_counted {
            transaction.update(STATISTICS, statistics.rows(now).iter()).await?;
        }
        Ok(erased)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
