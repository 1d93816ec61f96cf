//! New deliveries. Durable first: they are written in the transaction that notes what they come from as done: that marks the certificate,
//! saves the stream's position or an operation's progress, or writes the state of which a notice tells.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bson::oid::ObjectId;
use bson::{DateTime, RawDocumentBuf, doc};
use mongodb::options::FindOptions;
use parking_lot::Mutex;

use super::document::{BATCH_BYTES, BATCH_DELIVERIES, encode_batch, hint};
use super::{Head, NewDelivery, Outbox, single_id};
use crate::model::{EndpointKey, EventId};
use crate::store::{OUTBOX, Result, Transaction};

/// Ids that are known to be taken, at most; then all are forgotten, and met again.
const TAKEN: usize = 1_000;

/// What an append wrote. [`Outbox::announce`] must be called with it when the transaction is committed.
#[derive(Debug)]
#[must_use = "these batches must be announced"]
pub struct Appended {
    /// Deliveries that are new.
    pub fresh: usize,
    /// Deliveries that were in the outbox already.
    pub known: usize,
    /// Deliveries that are still to be appended, by another transaction.
    pub left: usize,
    batches: Vec<(Head, RawDocumentBuf)>,
    events: Vec<(crate::model::Message, EndpointKey)>,
    /// By both clocks.
    began: (DateTime, Instant),
}

impl Appended {
    /// Nothing was appended.
    pub fn nothing(now: DateTime) -> Self {
        Self {
            fresh: 0,
            known: 0,
            left: 0,
            batches: Vec::new(),
            events: Vec::new(),
            began: (now, Instant::now()),
        }
    }
}

/// The `_id`s that were met as duplicates of new single deliveries: of documents in which no delivery can be read.
#[derive(Clone, Debug, Default)]
pub(super) struct TakenIds(Arc<Mutex<HashSet<Arc<str>>>>);

impl TakenIds {
    fn note(&self, id: &Arc<str>) {
        let mut ids = self.0.lock();
        if ids.len() >= TAKEN {
            ids.clear();
        }
        ids.insert(Arc::clone(id));
    }

    fn has(&self, id: &Arc<str>) -> bool {
        self.0.lock().contains(id)
    }
}

impl Outbox {
    /// Writes deliveries, but for those that the outbox holds already, in batches per endpoint: at most `budget` bytes of payload, but
    /// at least one delivery. `deliveries` are in order of occurrence.
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub async fn append_in_transaction(
        &self,
        transaction: &mut Transaction,
        deliveries: Vec<NewDelivery>,
        budget: usize,
        now: DateTime,
    ) -> Result<Appended> {
        let mut appended = Appended::nothing(now);
        if deliveries.is_empty() {
            return Ok(appended);
        }
        let known = self.known(transaction, &deliveries).await?;
        let is_known =
            |delivery: &NewDelivery| known.contains(&(delivery.message.event_id.clone(), delivery.endpoint.clone()));
        let (old, mut new): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_known);
        appended.known = old.len();
        appended.left = new.split_off(within(budget, &new)).len();
        appended.fresh = new.len();
        if self.tracer.is_on() {
            let event = |delivery: &NewDelivery| (delivery.message.clone(), delivery.endpoint.clone());
            appended.events = new.iter().map(event).collect();
        }
        for batch in batches(new) {
            appended.batches.push(self.document(&batch, now));
        }
        let documents: Vec<&RawDocumentBuf> = appended.batches.iter().map(|(_, document)| document).collect();
        let inserted = transaction.insert(OUTBOX, documents.into_iter()).await;
        if let Err(error) = &inserted
            && let Some(row) = error.row().filter(|_| error.is_duplicate())
        {
            self.taken.note(&appended.batches[row.index].0.id);
        }
        inserted.map(|()| appended)
    }

    /// What an append would write, of which nothing is written.
    ///
    /// # Errors
    /// The transaction is spoiled.
    pub async fn preview_in_transaction(
        &self,
        transaction: &mut Transaction,
        deliveries: &[NewDelivery],
        now: DateTime,
    ) -> Result<Appended> {
        let mut appended = Appended::nothing(now);
        let known = self.known(transaction, deliveries).await?;
        let is_known = |one: &&NewDelivery| known.contains(&(one.message.event_id.clone(), one.endpoint.clone()));
        appended.known = deliveries.iter().filter(is_known).count();
        appended.fresh = deliveries.len() - appended.known;
        Ok(appended)
    }

    /// The transaction of this append is committed: wakes up the fetchers.
    pub fn announce(&self, appended: Appended) {
        let (now, began) = appended.began;
        let events = appended.events.iter().map(|(message, endpoint)| (message, endpoint));
        self.tracer.found(events, now, began.elapsed());
        if !appended.batches.is_empty() {
            self.listener.appended(appended.batches, began);
        }
    }

    /// The document of a batch.
    fn document(&self, batch: &[NewDelivery], now: DateTime) -> (Head, RawDocumentBuf) {
        let id = self.batch_id(batch);
        let (document, due) = encode_batch(&id, batch, now);
        let head = Head {
            endpoint: batch[0].endpoint.clone(),
            class: batch[0].class,
            due,
            id,
            open: batch.len(),
        };
        (head, document)
    }

    /// The `_id` begins with the endpoint. One delivery alone is known by its event, so that it can become its own retry in place;
    /// a larger batch by an ObjectId, which orders those of one instance.
    fn batch_id(&self, batch: &[NewDelivery]) -> Arc<str> {
        if let [only] = batch {
            let id = single_id(&only.message.event_id, &only.endpoint).into();
            if !self.taken.has(&id) {
                return id;
            }
        }
        format!("{}/{}", batch[0].endpoint, ObjectId::new()).into()
    }

    /// Which of the deliveries are in the outbox, in any state.
    async fn known(
        &self,
        transaction: &mut Transaction,
        deliveries: &[NewDelivery],
    ) -> Result<HashSet<(EventId, EndpointKey)>> {
        let mut events: Vec<&str> = deliveries
            .iter()
            .map(|delivery| delivery.message.event_id.as_str())
            .collect();
        events.sort_unstable();
        events.dedup();
        let mut options = FindOptions::default();
        options.projection = Some(doc! { "_id": 0, "endpoint": 1, "deliveries.event": 1 });
        options.hint = Some(hint("events"));
        let filter = doc! { "deliveries.event": { "$in": events } };
        let found = transaction.find(OUTBOX, filter, options).await?;
        Ok(found.iter().flat_map(pairs).collect())
    }
}

fn pairs(document: &RawDocumentBuf) -> Vec<(EventId, EndpointKey)> {
    let (Ok(endpoint), Ok(entries)) = (document.get_str("endpoint"), document.get_array("deliveries")) else {
        return Vec::new();
    };
    let endpoint = EndpointKey::from_stored(endpoint);
    let entries = entries.into_iter().flatten();
    let event = |entry: bson::RawBsonRef<'_>| Some(EventId::from_stored(entry.as_document()?.get_str("event").ok()?));
    entries
        .filter_map(event)
        .map(|event| (event, endpoint.clone()))
        .collect()
}

/// How many of the deliveries have `budget` bytes together; the first in any case.
fn within(budget: usize, deliveries: &[NewDelivery]) -> usize {
    let mut bytes = 0;
    let fits = deliveries.iter().take_while(|delivery| {
        bytes += delivery.message.body.len();
        bytes <= budget
    });
    fits.count().max(1).min(deliveries.len())
}

/// Cuts deliveries into batches of one endpoint each.
fn batches(deliveries: Vec<NewDelivery>) -> Vec<Vec<NewDelivery>> {
    let mut batches: Vec<Vec<NewDelivery>> = Vec::new();
    // Per endpoint, the batch that is not full, and its bytes.
    let mut filling: HashMap<EndpointKey, (usize, usize)> = HashMap::new();
    for delivery in deliveries {
        let bytes = delivery.message.body.len();
        if let Some((place, filled)) = filling.get_mut(&delivery.endpoint)
            && batches[*place].len() < BATCH_DELIVERIES
            && *filled + bytes <= BATCH_BYTES
        {
            *filled += bytes;
            batches[*place].push(delivery);
            continue;
        }
        filling.insert(delivery.endpoint.clone(), (batches.len(), bytes));
        batches.push(vec![delivery]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EventType, Message};
    use crate::outbox::Class;
    use bson::{RawBson, RawBsonRef};
    use bytes::Bytes;

    fn delivery(endpoint: &str, place: i32, bytes: usize) -> NewDelivery {
        let at = DateTime::from_millis(i64::from(place));
        NewDelivery {
            message: Message {
                event_id: EventId::derive(EventType::CertificateExpired, RawBsonRef::Int32(place), at),
                event_type: EventType::CertificateExpired.into(),
                body: Bytes::from(vec![b'x'; bytes]),
                is_replay: false,
            },
            endpoint: EndpointKey::from_stored(endpoint),
            class: Class::Live,
            certificate: RawBson::Int32(place),
            occurred_at: at,
        }
    }

    fn sizes(deliveries: Vec<NewDelivery>) -> Vec<usize> {
        batches(deliveries).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_batch_is_of_one_endpoint_and_at_most_64_deliveries_and_a_megabyte() {
        let many = |endpoint: &'static str, n, bytes| (0..n).map(move |place| delivery(endpoint, place, bytes));
        assert_eq!(sizes(many("a/1", 130, 10).collect()), [64, 64, 2]);
        assert_eq!(sizes(many("a/1", 3, 10).chain(many("a/2", 2, 10)).collect()), [3, 2]);
        assert_eq!(sizes(many("a/1", 5, 400_000).collect()), [2, 2, 1]);
        assert_eq!(
            sizes(many("a/1", 3, 2 << 20).collect()),
            [1, 1, 1],
            "a large payload is alone"
        );
    }

    #[test]
    fn what_follows_a_large_payload_keeps_its_order() {
        let mixed = vec![
            delivery("a/1", 1, 10),
            delivery("a/1", 2, 2 << 20),
            delivery("a/1", 3, 10),
        ];
        let order: Vec<_> = batches(mixed)
            .iter()
            .map(|batch| batch[0].occurred_at.timestamp_millis())
            .collect();
        assert_eq!(order, [1, 2, 3]);
    }
}
