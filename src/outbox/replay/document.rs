//! A document of which something is sent again.

use bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, doc, rawdoc};

use super::Replayable;
use crate::outbox::document::{HISTORY, LAYOUT};
use crate::outbox::selection::{Candidate, Selection};
use crate::outbox::versions::raw;

/// A document of which something is chosen.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: String,
    /// As it was read, whatever it is.
    version: Bson,
    endpoint: String,
    finished_at: DateTime,
    attempts: Option<i32>,
    reason: Option<String>,
    last_error: Option<String>,
    /// The document's own state.
    state: &'static str,
    /// Whether it notes replays already.
    has_replays: bool,
    /// When the last attempt was made that `history` holds.
    last_in_history: Option<DateTime>,
    deliveries: Vec<Delivery>,
    /// The places of the deliveries that are sent again.
    pub(super) chosen: Vec<usize>,
    /// How many are selected, but erased.
    pub(super) erased: u64,
    /// How many are selected, but have lost their payload by the retention.
    pub(super) without_payload: u64,
}

#[derive(Debug)]
struct Delivery {
    event: String,
    occurred_at: DateTime,
    state: &'static str,
    /// How it was settled in this document.
    result: Option<Document>,
}

impl Ended {
    /// `None` where nothing is selected of it, or where it can't be read.
    pub(super) fn read(found: &RawDocument, selection: &Selection) -> Option<Self> {
        let state = match found.get_str("state").ok()? {
            "dead" => "dead",
            "cancelled" => "cancelled",
            _ => "delivered",
        };
        let results = found.get_array("results").ok();
        let is_dropped = found.get_bool("payloadDropped").unwrap_or(false);
        let (mut deliveries, mut chosen, mut erased, mut without_payload) = (Vec::new(), Vec::new(), 0, 0);
        for (place, delivery) in found.get_array("deliveries").ok()?.into_iter().enumerate() {
            let delivery = delivery.ok()?.as_document()?;
            let result = results.and_then(|results| results.get(place).ok().flatten()?.as_document());
            let candidate = Candidate {
                event: delivery.get_str("event").ok()?,
                event_type: delivery.get_str("type").ok()?,
                state: result.map_or(state, settled),
                occurred_at: delivery.get_datetime("occurredAt").ok()?,
            };
            match selection.includes(candidate) {
                true if delivery.get_bool("erased").unwrap_or(false) => erased += 1,
                true if is_dropped => without_payload += 1,
                is_chosen => chosen.extend(is_chosen.then_some(place)),
            }
            deliveries.push(Delivery {
                event: candidate.event.to_owned(),
                occurred_at: candidate.occurred_at,
                state: result.map_or(state, settled),
                result: result.and_then(|result| Document::try_from(result).ok()),
            });
        }
        let history = found.get_array("history").ok();
        let last = history.and_then(|history| history.into_iter().flatten().last()?.as_document());
        (!chosen.is_empty() || erased + without_payload > 0).then_some(())?;
        Some(Self {
            id: found.get_str("_id").ok()?.to_owned(),
            version: Bson::try_from(raw(found, "version")).ok()?,
            endpoint: found.get_str("endpoint").ok()?.to_owned(),
            finished_at: found.get_datetime("finishedAt").ok()?,
            attempts: found.get_i32("attempts").ok(),
            reason: found.get_str("reason").ok().map(str::to_owned),
            last_error: found.get_str("lastError").ok().map(str::to_owned),
            state,
            has_replays: found.get_array("replays").is_ok(),
            last_in_history: last.and_then(|last| last.get_datetime("at").ok()),
            deliveries,
            chosen,
            erased,
            without_payload,
        })
    }

    pub(super) fn replayable(&self) -> impl Iterator<Item = Replayable> {
        self.chosen.iter().map(|place| {
            let delivery = &self.deliveries[*place];
            Replayable {
                delivery: format!("{}/{}", delivery.event, self.endpoint),
                state: delivery.state.to_owned(),
                attempts: self.attempts.unwrap_or(i32::from(delivery.result.is_some())),
                occurred_at: delivery.occurred_at,
                last_error: self.last_error.clone(),
            }
        })
    }

    /// The places of those that get a document of their own, because their results must stay here.
    pub(super) fn copied(&self) -> Vec<usize> {
        let copied = |place: &&usize| self.deliveries.len() > 1 && self.deliveries[**place].state == "delivered";
        self.chosen.iter().filter(copied).copied().collect()
    }

    /// How many become pending here.
    pub(super) fn reopened(&self) -> u64 {
        (self.chosen.len() - self.copied().len()) as u64
    }

    /// Makes those that need no document of their own pending, if nobody else has written to it: filter and update.
    pub(super) fn reopen(&self, now: DateTime) -> (Document, Document) {
        let mut set = doc! {
            "state": "pending", "queue": self.queue(), "due": now, "open": i32::try_from(self.reopened()).unwrap_or(i32::MAX),
            "results": self.results(), "replay": true,
        };
        if self.attempts.is_some() {
            set.insert("attempts", 0);
        }
        let unset = doc! {
            "finishedAt": 1, "reason": 1, "firstAttemptAt": 1, "deadSince": 1, "redrivable": 1, "redriven": 1,
        };
        let mut update = doc! { "$unset": unset };
        if self.version.as_i32().is_some() {
            update.insert("$inc", doc! { "version": 1 });
        } else {
            set.insert("version", 1);
        }
        let push = |entry: Document| doc! { "$each": [entry], "$slice": -HISTORY };
        let mut pushed = Document::new();
        if self.has_replays {
            pushed.insert("replays", push(self.replay(self.state, now)));
        } else {
            // Whatever is there.
            set.insert("replays", [self.replay(self.state, now)]);
        }
        if let Some(attempt) = self.unrecorded() {
            pushed.insert("history", push(attempt));
        }
        update.insert("$set", set);
        if !pushed.is_empty() {
            update.insert("$push", pushed);
        }
        (doc! { "_id": &self.id, "version": { "$eq": &self.version } }, update)
    }

    /// The results as they are then. What was open and is not chosen is cancelled from now on by itself.
    fn results(&self) -> Vec<Bson> {
        let copied = self.copied();
        let result = |(place, delivery): (usize, &Delivery)| match &delivery.result {
            _ if self.chosen.contains(&place) && !copied.contains(&place) => Bson::Null,
            Some(result) => result.clone().into(),
            None => doc! { "at": self.finished_at, "cancelled": true }.into(),
        };
        self.deliveries.iter().enumerate().map(result).collect()
    }

    /// The success of a document's only delivery that `history` does not hold, because no attempt had failed before it.
    fn unrecorded(&self) -> Option<Document> {
        let [delivery] = self.deliveries.as_slice() else {
            return None;
        };
        let result = delivery.result.as_ref().filter(|_| delivery.state == "delivered")?;
        let at = result.get_datetime("at").ok()?;
        (self.last_in_history != Some(*at)).then(|| attempt(result, self.attempts.unwrap_or(1)))
    }

    /// A document of its own for each delivery that needs one; `whole` is this document with the payloads.
    pub(super) fn copies(&self, whole: &RawDocument, now: DateTime) -> Vec<RawDocumentBuf> {
        let entries = whole.get_array("deliveries").ok();
        let entry = |place| entries.and_then(|entries| entries.get(place).ok().flatten()?.as_document());
        let copy = |place: usize| {
            let delivery = &self.deliveries[place];
            let history = RawDocumentBuf::try_from(&attempt(delivery.result.as_ref()?, 1)).ok()?;
            Some(rawdoc! {
                "_id": format!("{}/{}", self.endpoint, delivery.event),
                "v": LAYOUT,
                "version": 1,
                "state": "pending",
                "endpoint": &*self.endpoint,
                "queue": self.queue(),
                "due": now,
                "open": 1,
                "createdAt": now,
                "deliveries": [entry(place)?.to_owned()],
                "results": [],
                "attempts": 0,
                "replay": true,
                "history": [history],
                "replays": [rawdoc! { "at": now, "state": delivery.state }],
            })
        };
        self.copied().into_iter().filter_map(copy).collect()
    }

    /// What a replay takes out of the document: an entry of `replays`.
    fn replay(&self, state: &str, now: DateTime) -> Document {
        let mut replay = doc! { "at": now, "state": state };
        replay.extend(
            self.attempts
                .map(|attempts| ("attempts".to_owned(), Bson::Int32(attempts))),
        );
        replay.extend(
            self.reason
                .clone()
                .map(|reason| ("reason".to_owned(), Bson::String(reason))),
        );
        replay
    }

    /// What is sent again is a retry.
    fn queue(&self) -> String {
        format!("{}/retry", self.endpoint)
    }
}

/// The state of a delivery with that result.
fn settled(result: &RawDocument) -> &'static str {
    let is = |field| result.get_bool(field).unwrap_or(false);
    match () {
        () if is("moved") => "moved",
        () if is("cancelled") => "cancelled",
        () => "delivered",
    }
}

/// A result as an entry of `history`.
fn attempt(result: &Document, number: i32) -> Document {
    let mut attempt = doc! { "n": number };
    attempt.extend(result.clone());
    attempt
}
