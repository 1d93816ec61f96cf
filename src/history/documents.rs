//! The documents of the outbox that hold what was asked for.

use std::collections::BTreeMap;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::Hint;

use super::fields::{Fields, shown};
use super::name::Name;
use super::{Attempt, Note, Odd, Replay};
use crate::model::{EndpointKey, EventType};
use crate::store::{Result, Store};

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) deliveries: Vec<StoredDelivery>,
    pub(super) odd: Vec<Odd>,
}

/// A delivery in one document. It may be in two: in the batch that it left, and in its own.
#[derive(Clone, Debug)]
pub(super) struct StoredDelivery {
    pub(super) document: String,
    /// Whether it is the document's only one.
    pub(super) is_alone: bool,
    pub(super) created_at: Option<DateTime>,
    pub(super) event: String,
    pub(super) event_type: String,
    pub(super) occurred_at: Option<DateTime>,
    pub(super) endpoint: String,
    pub(super) state: &'static str,
    pub(super) ended_at: Option<DateTime>,
    pub(super) reason: Option<String>,
    pub(super) attempts: i64,
    pub(super) last_error: Option<String>,
    pub(super) due: Option<DateTime>,
    pub(super) first_attempt_at: Option<DateTime>,
    pub(super) dead_since: Option<DateTime>,
    pub(super) is_redrivable: bool,
    pub(super) is_redriven: bool,
    /// Why it can't be sent any more: there is no payload.
    pub(super) no_payload: Option<&'static str>,
    /// When its document ended.
    pub(super) finished_at: Option<DateTime>,
    pub(super) history: Vec<Attempt>,
    pub(super) replays: Vec<Replay>,
}

impl Stored {
    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.odd.is_empty()
    }

    /// Adds what a document holds, of the events that are wanted.
    pub(super) fn add(&mut self, document: &Document, is_wanted: impl Fn(&str) -> bool) {
        let mut fields = Fields::new(document, &mut self.odd);
        let whole = Whole::read(&mut fields);
        let entries = fields.array("deliveries");
        if entries.is_empty() {
            fields.name("`deliveries` holds none");
        }
        let results = fields.array("results");
        for (place, entry) in entries.iter().enumerate() {
            let Some(entry) = entry.as_document() else {
                fields.name(format!("`deliveries.{place}` is not a document"));
                continue;
            };
            if !entry.get_str("event").is_ok_and(&is_wanted) {
                if entry.get_str("event").is_err() {
                    fields.name(format!("`deliveries.{place}.event` is not a string"));
                }
                continue;
            }
            let result = results.get(place).filter(|result| **result != Bson::Null);
            if result.is_some_and(|result| result.as_document().is_none()) {
                fields.name(format!("`results.{place}` is not a document"));
            }
            let mut place = whole.place(&mut fields.within(entry));
            place.is_alone = entries.len() == 1;
            if let Some(result) = result.and_then(Bson::as_document) {
                place.settled(&mut fields.within(result));
            }
            self.deliveries.push(place);
        }
    }
}

/// What a document says of all its deliveries.
struct Whole(StoredDelivery);

impl Whole {
    fn read(fields: &mut Fields<'_>) -> Self {
        let state = fields.text("state").as_deref().and_then(known);
        if state.is_none() {
            fields.name("`state` is none of those that it may be");
        }
        let endpoint = fields.text("endpoint");
        if endpoint.is_none() {
            fields.name("`endpoint` names none");
        }
        let finished_at = fields.instant("finishedAt");
        Self(StoredDelivery {
            document: fields.id().to_owned(),
            is_alone: false,
            created_at: fields.instant("createdAt"),
            event: String::new(),
            event_type: String::new(),
            occurred_at: None,
            endpoint: endpoint.unwrap_or_default(),
            state: state.unwrap_or("unknown"),
            ended_at: finished_at,
            reason: fields.text("reason"),
            attempts: fields.number("attempts").unwrap_or(0),
            last_error: fields.text("lastError"),
            due: fields.instant("due"),
            first_attempt_at: fields.instant("firstAttemptAt"),
            dead_since: fields.instant("deadSince"),
            is_redrivable: fields.flag("redrivable"),
            is_redriven: fields.flag("redriven"),
            no_payload: fields
                .flag("payloadDropped")
                .then_some("its payload was dropped after delivery.payload_retention"),
            finished_at,
            history: attempts(fields),
            replays: replays(fields),
        })
    }

    /// One of them.
    fn place(&self, entry: &mut Fields<'_>) -> StoredDelivery {
        StoredDelivery {
            event: entry.text("event").unwrap_or_default(),
            event_type: entry.text("type").unwrap_or_default(),
            occurred_at: entry.instant("occurredAt"),
            no_payload: entry.flag("erased").then_some("it was erased").or(self.0.no_payload),
            ..self.0.clone()
        }
    }
}

impl StoredDelivery {
    pub(super) fn key(&self) -> EndpointKey {
        EndpointKey::from_stored(&self.endpoint)
    }

    /// How it was settled, whatever becomes of the others in its document.
    fn settled(&mut self, result: &mut Fields<'_>) {
        let at = result.instant("at");
        self.ended_at = at;
        if result.flag("moved") {
            self.state = "moved";
        } else if result.flag("cancelled") {
            self.state = "cancelled";
        } else {
            self.state = "delivered";
            self.reason = None;
            let success = attempt(result);
            let is_kept = self
                .history
                .iter()
                .any(|kept| kept.at == success.at && kept.status == success.status);
            self.attempts = self.attempts.max(1);
            if !is_kept {
                let n = success.n.or(Some(self.attempts));
                self.history.push(Attempt { n, ..success });
            }
        }
    }
}

fn attempts(fields: &mut Fields<'_>) -> Vec<Attempt> {
    let entries = fields.documents("history");
    entries
        .into_iter()
        .map(|entry| attempt(&mut fields.within(entry)))
        .collect()
}

fn attempt(entry: &mut Fields<'_>) -> Attempt {
    Attempt {
        at: entry.instant("at"),
        instance: entry.text("instance"),
        n: entry.number("n"),
        status: entry.number("status"),
        error: entry.text("error"),
        ms: entry.number("ms"),
        connect_ms: entry.number("connectMs"),
        response: entry.text("response"),
        reason: entry.text("reason"),
        redriven: entry.flag("redriven"),
    }
}

fn replays(fields: &mut Fields<'_>) -> Vec<Replay> {
    let entries = fields.documents("replays");
    let replay = |entry: &Document, fields: &mut Fields<'_>| {
        let mut entry = fields.within(entry);
        Replay {
            at: entry.instant("at"),
            state: entry.text("state"),
            attempts: entry.number("attempts"),
            reason: entry.text("reason"),
        }
    };
    entries.into_iter().map(|entry| replay(entry, fields)).collect()
}

fn known(state: &str) -> Option<&'static str> {
    ["pending", "delivered", "dead", "cancelled", "rejected"]
        .into_iter()
        .find(|known| *known == state)
}

/// Everything that the outbox holds of that name.
pub(super) async fn load(store: &Store, name: &Name) -> Result<Stored> {
    match name {
        Name::Event { event, endpoint } => {
            let mut read = Stored::default();
            for document in of_events(store, doc! { "deliveries.event": event }).await? {
                read.add(&document, |found| found == event);
            }
            // Where it went to others alone, these are told.
            let is_wanted = |place: &StoredDelivery| endpoint.as_ref().is_none_or(|wanted| *wanted == place.endpoint);
            if read.deliveries.iter().any(is_wanted) {
                read.deliveries.retain(is_wanted);
            }
            Ok(read)
        }
        Name::Certificate { keys, .. } => of_certificate(store, keys).await,
        Name::Document { id, .. } => match by_id(store, id).await? {
            Some(document) => of_document(store, &document).await,
            None => Ok(Stored::default()),
        },
    }
}

/// The ids of events begin with type and certificate: each type is a range. The bounds of `$elemMatch` are those of one element;
/// outside of it the index would be read from the one bound on.
async fn of_certificate(store: &Store, keys: &[String]) -> Result<Stored> {
    let mut found = BTreeMap::new();
    for prefix in prefixes(keys) {
        let range = doc! { "event": { "$gte": &prefix, "$lt": after(&prefix) } };
        for document in of_events(store, doc! { "deliveries": { "$elemMatch": range } }).await? {
            found.insert(document.get("_id").map_or_else(String::new, shown), document);
        }
    }
    let mut read = Stored::default();
    let prefixes = prefixes(keys);
    for document in found.values() {
        read.add(document, |event| {
            prefixes.iter().any(|prefix| event.starts_with(prefix))
        });
    }
    Ok(read)
}

/// What a document holds, and what became of it where it left the document.
async fn of_document(store: &Store, document: &Document) -> Result<Stored> {
    let mut read = Stored::default();
    read.add(document, |_| true);
    let events: Vec<_> = read.deliveries.iter().map(|place| place.event.clone()).collect();
    let Ok(endpoint) = document.get_str("endpoint") else {
        return Ok(read);
    };
    let filter = doc! { "deliveries.event": { "$in": &events }, "endpoint": endpoint };
    for other in of_events(store, filter).await? {
        if other.get("_id") != document.get("_id") {
            read.add(&other, |event| events.iter().any(|wanted| wanted == event));
        }
    }
    Ok(read)
}

async fn of_events(store: &Store, filter: Document) -> Result<Vec<Document>> {
    let outbox = store.outbox();
    let find = outbox.find(filter).hint(Hint::Name("events".into()));
    let found: Vec<RawDocumentBuf> = find
        .projection(doc! { "deliveries.payload": 0 })
        .await?
        .try_collect()
        .await?;
    Ok(found
        .iter()
        .filter_map(|document| Document::try_from(document).ok())
        .collect())
}

async fn by_id(store: &Store, id: &str) -> Result<Option<Document>> {
    let find = store.outbox();
    let found = find
        .find_one(doc! { "_id": id })
        .projection(doc! { "deliveries.payload": 0 })
        .await?;
    Ok(found.and_then(|document| Document::try_from(&document).ok()))
}

/// What is noted of certificates that can't be events, or that can't be marked.
pub(super) async fn load_notes(store: &Store, name: &Name) -> Result<Vec<Note>> {
    let filter = match name {
        Name::Event { event, .. } => {
            doc! { "_id": { "$in": [format!("rejected/{event}"), format!("unmarkable/{event}")] } }
        }
        Name::Certificate { keys, .. } => {
            let kinds = ["rejected", "unmarkable"];
            let ids = prefixes(keys)
                .into_iter()
                .flat_map(|prefix| kinds.map(|kind| format!("{kind}/{prefix}")));
            let ranges: Vec<_> = ids
                .map(|id| doc! { "_id": { "$gte": &id, "$lt": after(&id) } })
                .collect();
            doc! { "$or": ranges }
        }
        Name::Document { .. } => return Ok(Vec::new()),
    };
    let found: Vec<RawDocumentBuf> = store.outbox().find(filter).await?.try_collect().await?;
    let documents = found.iter().filter_map(|document| Document::try_from(document).ok());
    Ok(documents.map(|document| note(&document)).collect())
}

fn note(document: &Document) -> Note {
    let mut odd = Vec::new();
    let mut fields = Fields::new(document, &mut odd);
    let reason = fields
        .text("reason")
        .unwrap_or_else(|| "for a reason that can't be read".into());
    let at = fields
        .document
        .get("createdAt")
        .map_or_else(String::new, |at| format!(" ({})", shown(at)));
    let (kind, event) = fields.id().split_once('/').unwrap_or(("rejected", fields.id()));
    let (event, is_over) = (event.to_owned(), document.contains_key("finishedAt"));
    match kind {
        "unmarkable" if is_over => Note {
            code: "was_unmarkable",
            text: format!("{event} went out{at}, and MongoDB refused to mark the certificate for a while: {reason}"),
        },
        "unmarkable" => Note {
            code: "unmarkable",
            text: format!("{event} went out{at}, and MongoDB refuses to mark the certificate: {reason}"),
        },
        _ => Note {
            code: "rejected",
            text: format!("{event} was rejected{at}, nothing was sent: {reason}"),
        },
    }
}

fn prefixes(keys: &[String]) -> Vec<String> {
    let prefix = |key: &String| EventType::ALL.map(|known| known.id_prefix(key));
    keys.iter().flat_map(prefix).collect()
}

/// The end of what begins with that: a backquote follows an underscore.
fn after(prefix: &str) -> String {
    format!("{}`", prefix.trim_end_matches('_'))
}
