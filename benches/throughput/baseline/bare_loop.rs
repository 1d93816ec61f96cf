//! The bare loop: reads what expired, inserts it into an outbox, marks it, POSTs it, records it; each step in batches, and
//! all steps at once, each on another batch.
//!
//! It writes as durably as the daemon (majority, journaled, outbox before mark before POST) and sends the same payloads.
//! It leaves out: indexes on the outbox, hence any way to find in it what a crash left; claims and heartbeats, hence a
//! second daemon; the change streams; renewals between reading and marking (one filter for a whole batch instead of one a
//! certificate); timeouts, retries, dead letters; the guard, TLS, authentication, signatures; fairness between endpoints,
//! and their limit of 5 requests each (all connections serve all); a bound on memory in bytes; the log.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow};
use bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use certhookd::model::Clock;
use certhookd::platform::{Event, badge_user};
use certhookd::store::SCAN_INDEX;
use futures_util::TryStreamExt;
use http::HeaderValue;
use mongodb::options::Hint;
use mongodb::{Collection, Database};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::post::{Connections, Job};
use super::write;

/// As many as the daemon reads at once.
const BATCH: usize = 1_000;
/// As many as the daemon opens to ten endpoints.
const CONNECTIONS: usize = 50;

/// The loop, connected and ready to go.
pub struct BareLoop {
    database: Database,
    paths: HashMap<String, String>,
    connections: Connections,
    done: mpsc::Receiver<Vec<String>>,
}

/// A batch of events, rendered.
struct Batch {
    events: Vec<Event>,
    now: DateTime,
}

impl BareLoop {
    /// Opens the connections and learns which organization's endpoint has which path.
    pub async fn prepare(database: &Database, receiver: SocketAddr) -> Result<Self> {
        let configs: Collection<Document> = database.collection("memberconfigs");
        let mut cursor = configs.find(doc! {}).await?;
        let mut paths = HashMap::new();
        while let Some(config) = cursor.try_next().await? {
            let endpoints = config.get_document("webHookConfig")?.get_array("endpoints")?;
            let endpoint = endpoints.first().and_then(|endpoint| endpoint.as_document());
            let url = endpoint.context("an organization without endpoint")?.get_str("url")?;
            let path = url::Url::parse(url)?.path().to_owned();
            paths.insert(config.get_object_id("_ownerId")?.to_hex(), path);
        }
        let (sent, done) = mpsc::channel(CONNECTIONS);
        Ok(Self {
            database: database.clone(),
            paths,
            connections: Connections::open(receiver, CONNECTIONS, &sent).await?,
            done,
        })
    }

    /// Runs until everything that had expired is recorded.
    pub async fn run(self) -> Result<()> {
        let (read, to_insert) = mpsc::channel(2);
        let (inserted, to_mark) = mpsc::channel(2);
        let (marked, to_send) = mpsc::channel(2);
        let mut steps = JoinSet::new();
        steps.spawn(read_all(self.database.clone(), read));
        steps.spawn(insert_all(self.database.clone(), to_insert, inserted));
        steps.spawn(mark_all(self.database.clone(), to_mark, marked));
        steps.spawn(send_all(self.paths, self.connections, to_send));
        steps.spawn(record_all(self.database, self.done));
        while let Some(step) = steps.join_next().await {
            step??;
        }
        Ok(())
    }
}

async fn read_all(database: Database, next: mpsc::Sender<Batch>) -> Result<()> {
    let now = Clock::local();
    let filter = doc! { "expiryReminderSent": { "$in": [false, null] }, "expires": { "$lte": now } };
    let collection: Collection<RawDocumentBuf> = database.collection("badgeusers");
    let find = collection
        .find(filter)
        .sort(doc! { "expires": 1 })
        .batch_size(u32::try_from(BATCH)?);
    let mut cursor = find.hint(Hint::Name(SCAN_INDEX.to_owned())).await?;
    let mut events = Vec::with_capacity(BATCH);
    while let Some(document) = cursor.try_next().await? {
        let event = badge_user::expired(&document, now);
        events.push(event.map_err(|unfit| anyhow!("{}", unfit.reason))?);
        if events.len() == BATCH {
            let events = std::mem::replace(&mut events, Vec::with_capacity(BATCH));
            pass(&next, Batch { events, now }).await?;
        }
    }
    pass(&next, Batch { events, now }).await
}

async fn insert_all(database: Database, mut batches: mpsc::Receiver<Batch>, next: mpsc::Sender<Batch>) -> Result<()> {
    while let Some(batch) = batches.recv().await {
        if batch.events.is_empty() {
            continue;
        }
        let documents: RawArrayBuf = batch.events.iter().map(|event| document(event, batch.now)).collect();
        let command = rawdoc! { "insert": "webhook_deliveries", "ordered": false, "documents": documents };
        write(&database, command).await?;
        pass(&next, batch).await?;
    }
    Ok(())
}

/// Everything that a delivery needs after a crash.
fn document(event: &Event, now: DateTime) -> RawDocumentBuf {
    rawdoc! {
        "_id": format!("{}/{}", event.message.event_id, event.organization),
        "state": "claimed",
        "endpoint": event.organization.as_str(),
        "eventType": event.message.event_type.as_str(),
        "badgeUserId": event.certificate.clone(),
        "occurredAt": event.occurred_at,
        "createdAt": now,
        "payload": &*String::from_utf8_lossy(&event.message.body),
    }
}

async fn mark_all(database: Database, mut batches: mpsc::Receiver<Batch>, next: mpsc::Sender<Batch>) -> Result<()> {
    while let Some(batch) = batches.recv().await {
        let ids: RawArrayBuf = batch.events.iter().map(|event| event.certificate.clone()).collect();
        let filter = rawdoc! { "_id": { "$in": ids }, "expires": { "$lte": batch.now } };
        let update = rawdoc! { "$set": { "expiryReminderSent": true, "updatedAt": batch.now } };
        write(&database, update_many("badgeusers", filter, update)).await?;
        pass(&next, batch).await?;
    }
    Ok(())
}

async fn send_all(
    paths: HashMap<String, String>,
    mut connections: Connections,
    mut batches: mpsc::Receiver<Batch>,
) -> Result<()> {
    while let Some(batch) = batches.recv().await {
        let mut jobs = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            jobs.push(Job {
                id: format!("{}/{}", event.message.event_id, event.organization),
                path: paths
                    .get(&event.organization)
                    .context("an event of no organization")?
                    .clone(),
                event_id: HeaderValue::from_str(event.message.event_id.as_str())?,
                body: event.message.body,
            });
        }
        let share = jobs.len().div_ceil(connections.len()).max(1);
        while !jobs.is_empty() {
            let rest = jobs.split_off(share.min(jobs.len()));
            connections.send(std::mem::replace(&mut jobs, rest)).await?;
        }
    }
    Ok(())
}

async fn record_all(database: Database, mut done: mpsc::Receiver<Vec<String>>) -> Result<()> {
    let mut sent = Vec::with_capacity(CONNECTIONS);
    while done.recv_many(&mut sent, CONNECTIONS).await > 0 {
        let now = Clock::local();
        let ids: RawArrayBuf = sent.drain(..).flatten().collect();
        let filter = rawdoc! { "_id": { "$in": ids } };
        let update = rawdoc! { "$set": { "state": "delivered", "finishedAt": now } };
        write(&database, update_many("webhook_deliveries", filter, update)).await?;
    }
    Ok(())
}

fn update_many(collection: &str, filter: RawDocumentBuf, update: RawDocumentBuf) -> RawDocumentBuf {
    let mut updates = RawArrayBuf::new();
    updates.push(rawdoc! { "q": filter, "u": update, "multi": true });
    rawdoc! { "update": collection, "updates": updates }
}

async fn pass(next: &mpsc::Sender<Batch>, batch: Batch) -> Result<()> {
    next.send(batch).await.map_err(|_| anyhow!("the next step ended"))
}
