//! The outbox as an instance uses it, step by step.

use std::sync::Arc;
use std::time::Instant;

use bson::oid::ObjectId;
use bson::{DateTime, RawBson, RawDocumentBuf};
use certhookd::model::{Clock, EndpointKey, EventId, EventType, Message};
use certhookd::outbox::{Class, Delivery, Fetched, Head, Listener, NewDelivery, Next, Outbox, Settlement, Want};
use certhookd::store::{Store, Writer};
use certhookd::trace::Tracer;

/// More than any test appends in one transaction.
const ANY_BUDGET: usize = usize::MAX;

/// Tells nobody of what is appended.
struct Nobody;

impl Listener for Nobody {
    fn appended(&self, _: Vec<(Head, RawDocumentBuf)>, _: Instant) {}
}

/// The outbox as that instance writes it.
pub fn outbox(store: &Store, instance: &str) -> Outbox {
    Outbox::new(store.clone(), instance.into(), Arc::new(Nobody), Tracer::default())
}

pub fn endpoint(n: impl std::fmt::Display) -> EndpointKey {
    EndpointKey::from_stored(&format!("organization/{n}"))
}

/// The delivery of some event to that endpoint.
pub fn delivery(endpoint: &EndpointKey) -> NewDelivery {
    let (id, at) = (RawBson::ObjectId(ObjectId::new()), DateTime::from_millis(0));
    NewDelivery {
        message: Message {
            event_id: EventId::derive(EventType::CertificateExpired, id.as_raw_bson_ref(), at),
            event_type: EventType::CertificateExpired.into(),
            body: "{}".into(),
            is_replay: false,
        },
        endpoint: endpoint.clone(),
        class: Class::Live,
        certificate: id,
        occurred_at: at,
    }
}

/// Appends in one transaction. Returns how many are new, and how many were known.
pub async fn append(store: &Store, outbox: &Outbox, deliveries: Vec<NewDelivery>) -> (usize, usize) {
    let mut transaction = store.begin(Writer::Source).await.unwrap();
    let append = outbox.append_in_transaction(&mut transaction, deliveries, ANY_BUDGET, Clock::local());
    let appended = append.await.unwrap();
    transaction.commit().await.unwrap();
    (appended.fresh, appended.known)
}

/// The next batches of an endpoint.
pub fn next(endpoint: &EndpointKey, class: Class, batches: usize) -> Want {
    Want::Next {
        endpoint: endpoint.clone(),
        class,
        except: Vec::new(),
        batches,
    }
}

/// What is due, however much it is.
pub async fn fetch(outbox: &Outbox, wants: &[Want]) -> Vec<Fetched> {
    let read = outbox.fetch(wants, Clock::local(), usize::MAX).await.unwrap();
    assert!(read.unreadable.is_empty() && !read.cut, "{read:?}");
    read.batches
}

/// The deliveries of the only live batch of an endpoint.
pub async fn only_batch(outbox: &Outbox, endpoint: &EndpointKey) -> Vec<Delivery> {
    let mut batches = fetch(outbox, &[next(endpoint, Class::Live, 10)]).await;
    assert_eq!(batches.len(), 1);
    batches.remove(0).deliveries
}

pub fn settlement(delivery: &Delivery, next: Next) -> Settlement {
    Settlement {
        must_tell_death: false,
        paused_until: None,
        delivery: delivery.clone(),
        at: Clock::local(),
        ms: 3,
        connect_ms: Some(1),
        next,
    }
}

/// Records, as a recorder does that meets no error.
pub async fn record(outbox: &Outbox, settlements: &[Settlement]) {
    outbox.record(settlements, true, Clock::local()).await.unwrap();
}
