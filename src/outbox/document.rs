//! How deliveries are laid out in `webhook_outbox`, layout 2. Documents of every released layout must stay readable:
//! `tests/data/outbox-v2.json` holds one of each state.
//!
//! A **batch** holds deliveries of one endpoint in order of occurrence. `results[i]` says how `deliveries[i]` was settled; null
//! or missing means that it is not. A write that changes a batch compares `version` and raises it by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use bson::raw::CString;
use bson::{DateTime, RawArray, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, cstr, rawdoc};
use bytes::Bytes;

use super::settled::{open, settled};
use crate::model::{EndpointKey, EventId, Message, MessageType};

/// A delivery that failed keeps this many of its last attempts.
pub(super) const HISTORY: i32 = 20;

/// The layout that this version writes.
pub(super) const LAYOUT: i32 = 2;

/// Deliveries in a batch, at most.
pub(super) const BATCH_DELIVERIES: usize = 64;

/// Payload bytes in a batch, at most; a larger payload is a batch by itself.
pub const BATCH_BYTES: usize = 1 << 20;

/// In which part of an endpoint's queue a batch waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Not attempted yet.
    Live,
    /// Attempted before, or sent again.
    Retry,
    /// Sent only while neither of the others waits.
    Background,
}

impl Class {
    /// All, in order of precedence.
    pub const ALL: [Self; 3] = [Self::Live, Self::Retry, Self::Background];

    /// The last part of a queue's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Retry => "retry",
            Self::Background => "background",
        }
    }

    /// The value of the field `queue`: the endpoint's key and the class.
    pub fn queue(self, endpoint: &EndpointKey) -> String {
        format!("{endpoint}/{}", self.as_str())
    }

    /// Reads a queue's name.
    pub(super) fn parse(queue: &str) -> Option<(EndpointKey, Self)> {
        let (endpoint, class) = queue.rsplit_once('/')?;
        let class = Self::ALL.into_iter().find(|known| known.as_str() == class)?;
        Some((EndpointKey::from_stored(endpoint), class))
    }
}

/// A delivery to be appended.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// What to send.
    pub message: Message,
    /// Where it goes.
    pub endpoint: EndpointKey,
    /// In which part of the endpoint's queue it waits.
    pub class: Class,
    /// The BadgeUser's `_id`.
    pub certificate: RawBson,
    /// When it happened: `expires` or `creationDate`.
    pub occurred_at: DateTime,
}

/// A batch of which this instance has deliveries in memory.
#[derive(Debug)]
pub struct Batch {
    /// The document's `_id`.
    pub id: Arc<str>,
    /// Whose deliveries it holds.
    pub endpoint: EndpointKey,
    /// How many deliveries the document holds, settled ones included.
    pub size: u32,
    /// The document's `version` when this instance last read or wrote it.
    pub(super) version: AtomicI32,
    /// Deliveries that are not settled in the document.
    pub(super) open: AtomicU32,
    /// Deliveries in this instance's memory: queued, in flight, or with a result that is not recorded yet.
    in_memory: AtomicU32,
    /// Places that somebody else is known to have settled, a bit each.
    settled: AtomicU64,
    /// Whether the document was cancelled while some of its deliveries were in flight.
    pub(super) cancelled: AtomicBool,
}

impl Batch {
    /// How many of its deliveries have no recorded result.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many of its deliveries are in this instance's memory.
    pub fn in_memory(&self) -> u32 {
        self.in_memory.load(Ordering::Relaxed)
    }

    /// More of its deliveries came into memory.
    pub fn add(&self, count: u32) {
        self.in_memory.fetch_add(count, Ordering::Relaxed);
    }

    /// Some of its deliveries left memory. Returns how many are still there.
    pub fn remove(&self, count: u32) -> u32 {
        self.in_memory.fetch_sub(count, Ordering::Relaxed) - count
    }

    /// These deliveries are settled in the document, as it was just read, and no others.
    pub(super) fn set_settled(&self, places: impl Iterator<Item = u32>) {
        let settled = places.fold(0, |settled, place| settled | bit(place));
        self.settled.store(settled, Ordering::Relaxed);
    }

    /// Whether somebody else is known to have settled that delivery.
    pub(super) fn is_settled(&self, index: u32) -> bool {
        self.settled.load(Ordering::Relaxed) & bit(index) != 0
    }

    /// Whether it is one delivery, which becomes its own retry in place.
    pub(super) fn is_single(&self) -> bool {
        self.size == 1
    }
}

/// A batch has no more places than bits.
fn bit(index: u32) -> u64 {
    1_u64.checked_shl(index).unwrap_or(0)
}

/// A delivery out of the outbox, on its way to its endpoint.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What to send.
    pub message: Message,
    /// Where it goes.
    pub endpoint: EndpointKey,
    /// The number of the attempt that is made next, from 1.
    pub attempt: u32,
    /// When the first attempt that failed began.
    pub first_attempt_at: Option<DateTime>,
    /// Whether it is a dead letter that goes out again by itself: it has one attempt.
    pub redriven: bool,
    /// Attempts that have begun since a result was last recorded: counted of large payloads alone.
    pub begun: u32,
    /// When it happened.
    pub occurred_at: DateTime,
    /// The BadgeUser's `_id`.
    pub certificate: RawBson,
    /// Its document in the outbox.
    pub batch: Arc<Batch>,
    /// Its place in the batch.
    pub index: u32,
}

/// What was read of a batch for sending.
#[derive(Debug)]
pub struct Fetched {
    /// The batch, with nothing of it in memory yet.
    pub batch: Arc<Batch>,
    /// The part of the endpoint's queue in which it waits.
    pub class: Class,
    /// When it is due.
    pub due: DateTime,
    /// Its open deliveries, as far as they were asked for, in order.
    pub deliveries: Vec<Delivery>,
    /// The place after the last delivery that was read; `None` if nothing follows it.
    pub rest: Option<u32>,
}

/// The `_id` of the document that holds one delivery alone.
pub fn single_id(event: &EventId, endpoint: &EndpointKey) -> String {
    format!("{endpoint}/{event}")
}

/// An element of `deliveries`.
pub(super) fn encode_delivery(message: &Message, certificate: &RawBson, occurred_at: DateTime) -> RawDocumentBuf {
    let payload = String::from_utf8_lossy(&message.body);
    rawdoc! {
        "event": message.event_id.as_str(),
        "type": message.event_type.as_str(),
        "certificate": certificate.clone(),
        "occurredAt": occurred_at,
        "payload": &*payload,
    }
}

/// A new batch of these deliveries, which are of one endpoint and class and in order of occurrence.
pub(super) fn encode_batch(id: &str, deliveries: &[NewDelivery], now: DateTime) -> (RawDocumentBuf, DateTime) {
    let first = &deliveries[0];
    // What happened first goes out first.
    let due = first.occurred_at.min(now);
    let mut entries = RawArrayBuf::new();
    for delivery in deliveries {
        entries.push(encode_delivery(
            &delivery.message,
            &delivery.certificate,
            delivery.occurred_at,
        ));
    }
    let mut document = rawdoc! {
        "_id": id,
        "v": LAYOUT,
        "version": 1,
        "state": "pending",
        "endpoint": first.endpoint.as_str(),
        "queue": first.class.queue(&first.endpoint),
        "due": due,
        "open": i32::try_from(deliveries.len()).unwrap_or(i32::MAX),
        "createdAt": now,
        "deliveries": entries,
        "results": RawArrayBuf::new(),
    };
    if first.message.is_replay {
        document.append(cstr!("replay"), true);
    }
    (document, due)
}

/// Reads a batch for sending: its open deliveries, of those that are in `document`. `skip` is the place of the first of them
/// in the whole batch, `from` of the first that is wanted, `limit` how many are wanted at most.
///
/// # Errors
/// The field that is missing or of another type.
pub(super) fn decode(document: &RawDocument, skip: u32, from: u32, limit: usize) -> Result<Fetched, String> {
    let queue = text(document, "queue")?;
    let (endpoint, class) = Class::parse(queue).ok_or("`queue` names no endpoint and class")?;
    let results = document.get_array("results").map_err(|_| "`results` is not an array")?;
    let settled = settled(results);
    let entries = document
        .get_array("deliveries")
        .map_err(|_| "`deliveries` is not an array")?;
    let batch = Arc::new(decode_batch(document, endpoint, entries, skip, &settled)?);
    let attempts = decode_attempts(document);
    let mut deliveries = Vec::new();
    let mut next = skip;
    for entry in entries {
        if deliveries.len() >= limit {
            break;
        }
        let index = next;
        next += 1;
        if index < from || settled.get(index as usize).copied().unwrap_or(false) {
            continue;
        }
        let entry = entry.ok().and_then(|entry| entry.as_document());
        let entry = entry.ok_or_else(|| format!("`deliveries.{index}` is not a document"))?;
        let delivery = decode_delivery(entry, &attempts, &batch, index);
        deliveries.push(delivery.map_err(|what| format!("`deliveries.{index}`: {what}"))?);
    }
    let rest = (next < batch.size).then_some(next);
    Ok(Fetched {
        batch,
        class,
        due: document.get_datetime("due").map_err(|_| "`due` is not a date")?,
        deliveries,
        rest,
    })
}

fn decode_batch(
    document: &RawDocument,
    endpoint: EndpointKey,
    entries: &RawArray,
    skip: u32,
    settled: &[bool],
) -> Result<Batch, String> {
    // Where only a part of the deliveries was read, `size` was asked for too.
    let size = match document.get_i32("size") {
        Ok(size) => u32::try_from(size).unwrap_or(0),
        Err(_) => skip.saturating_add(u32::try_from(entries.into_iter().count()).unwrap_or(u32::MAX)),
    };
    number(document, "open")?;
    let open = open(settled, size);
    if open == 0 {
        return Err("every delivery has its result, and yet it is pending".into());
    }
    Ok(Batch {
        id: text(document, "_id")?.into(),
        endpoint,
        size,
        version: AtomicI32::new(number(document, "version")?),
        open: AtomicU32::new(open),
        in_memory: AtomicU32::new(0),
        settled: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
    })
}

/// What a document says of the attempts of its only delivery so far.
struct Attempts {
    made: u32,
    first_at: Option<DateTime>,
    redriven: bool,
    begun: u32,
    is_replay: bool,
}

fn decode_attempts(document: &RawDocument) -> Attempts {
    let count = |field| document.get_i32(field).ok().and_then(|n| u32::try_from(n).ok());
    Attempts {
        made: count("attempts").unwrap_or(0),
        first_at: document.get_datetime("firstAttemptAt").ok(),
        redriven: document.get_bool("redriven").unwrap_or(false),
        begun: count("begun").unwrap_or(0),
        is_replay: document.get_bool("replay").unwrap_or(false),
    }
}

fn decode_delivery(
    entry: &RawDocument,
    attempts: &Attempts,
    batch: &Arc<Batch>,
    index: u32,
) -> Result<Delivery, &'static str> {
    let certificate = entry.get("certificate").ok().flatten();
    let occurred_at = entry.get_datetime("occurredAt");
    Ok(Delivery {
        message: decode_message(entry, attempts.is_replay)?,
        endpoint: batch.endpoint.clone(),
        attempt: attempts.made.saturating_add(1),
        first_attempt_at: attempts.first_at,
        redriven: attempts.redriven,
        begun: attempts.begun,
        occurred_at: occurred_at.map_err(|_| "`occurredAt` is not a date")?,
        certificate: certificate.map_or(RawBson::Null, RawBson::from),
        batch: Arc::clone(batch),
        index,
    })
}

fn decode_message(entry: &RawDocument, is_replay: bool) -> Result<Message, &'static str> {
    let event = entry.get_str("event").map_err(|_| "`event` is not a string")?;
    let event_type = entry.get_str("type").ok().and_then(MessageType::parse);
    let payload = entry.get_str("payload").map_err(|_| "`payload` is not a string")?;
    Ok(Message {
        event_id: EventId::from_stored(event),
        event_type: event_type.ok_or("`type` is unknown")?,
        body: Bytes::copy_from_slice(payload.as_bytes()),
        is_replay,
    })
}

fn text<'a>(document: &'a RawDocument, field: &str) -> Result<&'a str, String> {
    document
        .get_str(field)
        .map_err(|_| format!("`{field}` is not a string"))
}

fn number(document: &RawDocument, field: &str) -> Result<i32, String> {
    document
        .get_i32(field)
        .map_err(|_| format!("`{field}` is not an Int32"))
}

/// The `_id` of a document of the outbox.
pub(super) fn id_of(document: &RawDocument) -> Option<String> {
    document.get_str("_id").ok().map(str::to_owned)
}

/// Has a query use the index of that name.
pub(super) fn hint(index: &str) -> mongodb::options::Hint {
    mongodb::options::Hint::Name(index.into())
}

/// The name of a field, of which this daemon has made each part.
pub(super) fn field(name: String) -> CString {
    CString::try_from(name).unwrap_or_else(|_| cstr!("unnamed").into())
}

/// A name for an element of `results`.
pub(super) fn result_field(index: u32) -> CString {
    field(format!("results.{index}"))
}

#[cfg(test)]
pub(crate) mod testing;
