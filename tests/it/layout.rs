//! Documents of layout 2 as instances write them: for tests of what reads them, and of what must read them for ever.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::config::Mongodb;
use certhookd::envelope::EncryptionKeys;
use certhookd::model::{Clock, EventId, Reloadable};
use certhookd::platform::{Directory, EndpointPolicy, Refresh};
use certhookd::store::Store;
use mongodb::Collection;
use tokio_util::sync::CancellationToken;

use crate::fixture::Fixture;

/// An organization, and an endpoint of it.
pub const ORGANIZATION: &str = "674700000000000000000003";
pub const ENDPOINT: &str = "674700000000000000000003/674700000000000000000010";

/// When the events happened.
const HAPPENED: i64 = 1_764_239_400_000;

pub fn outbox(fixture: &Fixture) -> Collection<Document> {
    fixture.database.collection("webhook_outbox")
}

/// The fixture's database as an instance sees it, with the outbox's indexes.
pub async fn store(fixture: &Fixture) -> Store {
    indexes(fixture).await;
    let config = Mongodb {
        uri: fixture.uri().into(),
        database: fixture.database.name().to_owned(),
        badge_users: "badgeusers".to_owned(),
        member_configs: "memberconfigs".to_owned(),
    };
    Store::new(&config, CancellationToken::new()).await.unwrap()
}

/// Has the platform know these endpoints, each as `ORGANIZATION/ENDPOINT`, and returns what a daemon then knows of them.
pub async fn configure(fixture: &Fixture, store: &Store, endpoints: &[&str]) -> Directory {
    for key in endpoints {
        let ids = key.split('/').map(|id| ObjectId::parse_str(id).unwrap());
        let [organization, id] = ids.collect::<Vec<_>>()[..] else {
            panic!("{key}")
        };
        let mut endpoint = fixture.endpoint("/a");
        endpoint.insert("_id", id);
        let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": [endpoint] } };
        fixture.member_configs().insert_one(config).await.unwrap();
    }
    directory(store).await
}

/// The endpoints as they are configured.
pub async fn directory(store: &Store) -> Directory {
    let directory = Directory::default();
    let refresh = Refresh {
        store: store.clone(),
        directory: directory.clone(),
        policy: Reloadable::new(EndpointPolicy {
            allow_http: true,
            concurrency: 5,
            keys: EncryptionKeys::NONE,
        }),
    };
    refresh.load().await.unwrap();
    directory
}

/// The outbox's indexes, as a daemon of the default configuration makes them.
pub async fn indexes(fixture: &Fixture) {
    let partial = |state: &str| doc! { "state": state };
    let indexes = [
        doc! { "name": "pending", "key": { "queue": 1, "due": 1, "_id": 1, "open": 1 }, "partialFilterExpression": partial("pending") },
        doc! { "name": "dead", "key": { "endpoint": 1, "finishedAt": 1 }, "partialFilterExpression": partial("dead") },
        doc! { "name": "events", "key": { "deliveries.event": 1 } },
        doc! {
            "name": "retention", "key": { "finishedAt": 1 }, "expireAfterSeconds": 30 * 24 * 3600,
            "partialFilterExpression": { "finishedAt": { "$exists": true } },
        },
    ];
    let create = doc! { "createIndexes": "webhook_outbox", "indexes": &indexes[..] };
    fixture.database.run_command(create).await.unwrap();
}

/// The id of the nth expiry: they happened a second after each other.
pub fn expiry(n: i64) -> String {
    format!("certificate_expired_6747{n:020x}_{}", HAPPENED + n * 1000)
}

/// The id of the nth award.
pub fn award(n: i64) -> String {
    format!("certificate_completed_6747{n:020x}_{}", HAPPENED + n * 1000)
}

/// A batch as it is appended.
pub fn batch(endpoint: &str, events: &[String]) -> Document {
    let now = Clock::local();
    let suffix = match events {
        [only] => only.clone(),
        _ => ObjectId::new().to_hex(),
    };
    let deliveries: Vec<_> = events.iter().map(|event| delivery(event)).collect();
    doc! {
        "_id": format!("{endpoint}/{suffix}"), "v": 2, "version": 1, "state": "pending", "endpoint": endpoint,
        "queue": format!("{endpoint}/live"), "due": happened(&events[0]), "open": events.len() as i32, "createdAt": now,
        "deliveries": deliveries, "results": [],
    }
}

/// A delivery of which this many attempts failed, the last with a 503; the next is due in an hour.
pub fn retry(endpoint: &str, event: &str, attempts: i32) -> Document {
    let mut retry = batch(endpoint, &[event.to_owned()]);
    let now = Clock::local();
    let attempt =
        |n| doc! { "at": now, "instance": "5b0c1f6e9a42", "n": n, "status": 503, "error": "status 503", "ms": 12 };
    let history: Vec<_> = (1..=attempts).map(attempt).collect();
    retry.extend(doc! {
        "queue": format!("{endpoint}/retry"), "due": after(now, Duration::from_secs(3600)), "attempts": attempts,
        "firstAttemptAt": now, "history": history, "lastAttemptAt": now, "lastStatus": 503, "lastError": "status 503",
    });
    retry
}

/// A delivery of which 100 attempts failed.
pub fn dead(endpoint: &str, event: &str) -> Document {
    let mut dead = retry(endpoint, event, 3);
    let now = Clock::local();
    dead.extend(doc! {
        "state": "dead", "attempts": 100, "finishedAt": now, "deadSince": now, "redrivable": true,
        "reason": "100 attempts failed",
    });
    dead
}

/// A batch whose endpoint was switched off: what was settled before stays so.
pub fn cancelled(mut batch: Document) -> Document {
    batch.extend(doc! { "state": "cancelled", "reason": "the endpoint is off", "finishedAt": Clock::local() });
    batch
}

/// A batch with each delivery accepted.
pub fn delivered(mut batch: Document) -> Document {
    let results: Vec<_> = deliveries(&batch).iter().map(|_| accepted()).collect();
    batch.extend(doc! { "state": "delivered", "open": 0, "results": results, "finishedAt": Clock::local() });
    batch
}

/// The result of a delivery that was accepted.
pub fn accepted() -> Document {
    doc! { "at": Clock::local(), "status": 200, "ms": 12 }
}

/// The result of a delivery that failed and has a document of its own now.
pub fn moved() -> Document {
    doc! { "at": Clock::local(), "moved": true }
}

/// A certificate that is no event.
pub fn rejected(event: &str) -> Document {
    let now = Clock::local();
    doc! {
        "_id": format!("rejected/{event}"), "v": 2, "version": 1, "state": "rejected", "type": kind(event),
        "certificate": ObjectId::new(), "reason": "`_ownerId` is missing", "createdAt": now, "finishedAt": now,
    }
}

/// An instance that sent a heartbeat this many seconds ago.
pub fn instance(id: &str, seconds: u64) -> Document {
    let seen = before(Clock::local(), Duration::from_secs(seconds));
    doc! {
        "_id": format!("instance/{id}"), "host": "a.example", "machine": "0011223344556677", "pid": 4711_i64, "sessions": [],
        "version": "0.2.0", "startedAt": before(seen, Duration::from_secs(60)), "seenAt": seen, "members": [id], "draining": [],
        "control": 0_i64,
    }
}

/// The lease on the sources, held by that instance.
pub fn lease(holder: &str) -> Document {
    doc! { "_id": "lease/source", "holder": holder, "since": Clock::local(), "number": 1_i64 }
}

/// The statistics of an endpoint of today.
pub fn figures(endpoint: &str, successes: i64, failures: i64) -> Document {
    let now = Clock::local();
    let day = DateTime::from_millis(now.timestamp_millis().div_euclid(86_400_000) * 86_400_000);
    let (organization, id) = endpoint.split_once('/').unwrap();
    let mut figures = doc! {
        "_id": format!("{endpoint}/{}", &day.try_to_rfc3339_string().unwrap()[..10]), "organization": organization, "endpoint": id,
        "day": day, "successes": successes, "failures": failures, "dead": 0_i64, "cancelled": 0_i64,
    };
    if successes > 0 {
        figures.insert("lastSuccess", now);
    }
    if failures > 0 {
        figures.extend(doc! { "lastFailure": before(now, Duration::from_secs(1)), "lastFailureReason": "status 503" });
    }
    figures
}

pub fn id(document: &Document) -> &str {
    document.get_str("_id").unwrap()
}

pub async fn find(fixture: &Fixture, id: &str) -> Document {
    outbox(fixture).find_one(doc! { "_id": id }).await.unwrap().unwrap()
}

pub fn before(at: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(at.timestamp_millis() - by.as_millis() as i64)
}

pub fn after(at: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(at.timestamp_millis() + by.as_millis() as i64)
}

fn deliveries(batch: &Document) -> &Vec<bson::Bson> {
    batch.get_array("deliveries").unwrap()
}

fn delivery(event: &str) -> Document {
    let certificate = ObjectId::parse_str(event.split('_').nth(2).unwrap()).unwrap();
    doc! {
        "event": event, "type": kind(event), "certificate": certificate, "occurredAt": happened(event),
        "payload": format!("{{\"_id\":\"{certificate}\"}}"),
    }
}

fn kind(event: &str) -> String {
    event.split('_').take(2).collect::<Vec<_>>().join("_")
}

fn happened(event: &str) -> DateTime {
    EventId::from_stored(event).instant().unwrap()
}
