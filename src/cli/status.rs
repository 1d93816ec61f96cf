//! `certhookd status`: what MongoDB knows, for people and as JSON.

use std::collections::HashMap;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::table;
use crate::cluster::ALIVE;
use crate::config::Config;
use crate::model::EndpointKey;
use crate::platform::{Directory, Found};
use crate::store::{Result, Store};

/// All of it.
#[derive(Debug, Serialize)]
struct Status {
    daemons: Vec<Daemon>,
    /// Deliveries by state, and rejected documents.
    outbox: HashMap<String, i64>,
    /// How long the earliest due delivery has been waiting, in seconds.
    oldest_pending_s: Option<i64>,
    endpoints: Vec<Endpoint>,
    last_scan: Option<Scan>,
    stream: Option<Stream>,
}

#[derive(Debug, Serialize)]
struct Daemon {
    id: String,
    host: String,
    pid: i64,
    version: String,
    alive: bool,
    seen_s_ago: i64,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    owner: String,
    endpoint: String,
    name: String,
    /// `enabled`, `disabled`, `out of service` or `deleted`.
    state: &'static str,
    delivered: i64,
    failed_attempts: i64,
    pending: i64,
    dead: i64,
    cancelled: i64,
}

#[derive(Debug, Serialize)]
struct Scan {
    at: String,
    found: i64,
    deliveries: i64,
    rejected: i64,
    duration_ms: i64,
}

#[derive(Debug, Serialize)]
struct Stream {
    /// The last event, by the cluster's clock.
    last_event_at: String,
    catching_up: bool,
}

/// Asks and prints.
pub(super) async fn run(config: &Config, json: bool) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let status = gather(&store, config).await;
    store.close().await;
    let status = status?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(())
}

async fn gather(store: &Store, config: &Config) -> anyhow::Result<Status> {
    let now = store.hello().await?.get_datetime("localTime").copied()?;
    let directory = super::directory(store, config).await?;
    let by_endpoint = count(store).await?;
    let mut outbox = HashMap::new();
    for row in &by_endpoint {
        *outbox.entry(text(row.get_document("_id")?, "state")).or_default() += number(row, "count");
    }
    let state = store.state();
    Ok(Status {
        daemons: daemons(store, now).await?,
        outbox,
        oldest_pending_s: oldest(store, now).await?,
        endpoints: endpoints(&directory, &by_endpoint),
        last_scan: state
            .find_one(doc! { "_id": "scan" })
            .await?
            .map(|document| scan(&document)),
        stream: state
            .find_one(doc! { "_id": "watch" })
            .await?
            .map(|document| stream(&document)),
    })
}

async fn count(store: &Store) -> Result<Vec<Document>> {
    // Without the notes of what the statistics have not counted yet.
    let of_deliveries = doc! { "$match": { "state": { "$exists": true } } };
    let group = doc! { "$group": {
        "_id": { "endpoint": "$endpoint", "state": "$state" },
        "count": { "$sum": 1 },
        "attempts": { "$sum": "$attempts" },
    } };
    let cursor = store.deliveries().aggregate([of_deliveries, group]).await?;
    cursor.try_collect().await
}

async fn daemons(store: &Store, now: DateTime) -> Result<Vec<Daemon>> {
    let filter = doc! { "_id": { "$gte": "daemon/", "$lt": "daemon0" } };
    let found: Vec<Document> = store
        .state()
        .find(filter)
        .sort(doc! { "seenAt": -1 })
        .await?
        .try_collect()
        .await?;
    let daemon = |document: &Document| {
        let seen = document
            .get_datetime("seenAt")
            .copied()
            .unwrap_or(DateTime::from_millis(0));
        let ago = now.timestamp_millis() - seen.timestamp_millis();
        Daemon {
            id: text(document, "_id").trim_start_matches("daemon/").to_owned(),
            host: text(document, "host"),
            pid: number(document, "pid"),
            version: text(document, "version"),
            alive: u128::try_from(ago).unwrap_or(0) < ALIVE.as_millis(),
            seen_s_ago: ago / 1000,
        }
    };
    Ok(found.iter().map(daemon).collect())
}

async fn oldest(store: &Store, now: DateTime) -> Result<Option<i64>> {
    let group = [
        doc! { "$match": { "state": "pending" } },
        doc! { "$sort": { "endpoint": 1, "due": 1 } },
        doc! { "$group": { "_id": "$endpoint", "due": { "$first": "$due" } } },
        doc! { "$group": { "_id": null, "due": { "$min": "$due" } } },
    ];
    let mut cursor = store.deliveries().aggregate(group).await?;
    let due = cursor
        .try_next()
        .await?
        .and_then(|row| row.get_datetime("due").ok().copied());
    Ok(due.map(|due| (now.timestamp_millis() - due.timestamp_millis()).max(0) / 1000))
}

/// Every endpoint that is configured or has deliveries.
fn endpoints(directory: &Directory, counts: &[Document]) -> Vec<Endpoint> {
    let mut endpoints: HashMap<String, Endpoint> = HashMap::new();
    let known = directory.endpoints();
    let email = directory.email().then(EndpointKey::email);
    for key in known.iter().map(|endpoint| endpoint.key.clone()).chain(email) {
        endpoints.insert(key.to_string(), describe(directory, &key));
    }
    for row in counts {
        let Ok(id) = row.get_document("_id") else { continue };
        let Ok(key) = id.get_str("endpoint") else { continue };
        let describe = || describe(directory, &EndpointKey::from_stored(key));
        let endpoint = endpoints.entry(key.to_owned()).or_insert_with(describe);
        let (count, attempts) = (number(row, "count"), number(row, "attempts"));
        match id.get_str("state").unwrap_or_default() {
            "delivered" => {
                endpoint.delivered += count;
                endpoint.failed_attempts += attempts - count;
            }
            "dead" => {
                endpoint.dead += count;
                endpoint.failed_attempts += attempts;
            }
            "pending" => {
                endpoint.pending += count;
                endpoint.failed_attempts += attempts;
            }
            "claimed" => endpoint.pending += count,
            _ => endpoint.cancelled += count,
        }
    }
    let mut endpoints: Vec<_> = endpoints.into_values().collect();
    endpoints.sort_by(|a, b| (&a.owner, &a.endpoint).cmp(&(&b.owner, &b.endpoint)));
    endpoints
}

fn describe(directory: &Directory, key: &EndpointKey) -> Endpoint {
    let (name, state) = match directory.find(key) {
        Found::Endpoint(endpoint) if endpoint.enabled => (endpoint.name.clone(), "enabled"),
        Found::Endpoint(endpoint) => (endpoint.name.clone(), "disabled"),
        Found::Email { enabled: true } => ("reminders to users".into(), "enabled"),
        Found::Email { enabled: false } => ("reminders to users".into(), "disabled"),
        Found::Refused(_) => (String::new(), "out of service"),
        Found::Unknown => (String::new(), "deleted"),
    };
    Endpoint {
        owner: key.owner().to_owned(),
        endpoint: key.endpoint().to_owned(),
        name,
        state,
        delivered: 0,
        failed_attempts: 0,
        pending: 0,
        dead: 0,
        cancelled: 0,
    }
}

fn scan(document: &Document) -> Scan {
    Scan {
        at: instant(document, "at"),
        found: number(document, "found"),
        deliveries: number(document, "deliveries"),
        rejected: number(document, "rejected"),
        duration_ms: number(document, "durationMs"),
    }
}

fn stream(document: &Document) -> Stream {
    Stream {
        last_event_at: instant(document, "at"),
        catching_up: document.contains_key("catchUpFrom"),
    }
}

fn print(status: &Status) {
    let daemon = |daemon: &Daemon| {
        let alive = if daemon.alive { "alive" } else { "gone" };
        vec![
            daemon.id.clone(),
            daemon.host.clone(),
            daemon.pid.to_string(),
            daemon.version.clone(),
            alive.to_owned(),
            format!("{} s ago", daemon.seen_s_ago),
        ]
    };
    table::print(
        &["daemon", "host", "pid", "version", "state", "seen"],
        &status.daemons.iter().map(daemon).collect::<Vec<_>>(),
    );
    let of = |state: &str| status.outbox.get(state).copied().unwrap_or(0);
    println!(
        "\noutbox     {} pending, {} claimed, {} delivered, {} dead, {} cancelled, {} rejected",
        of("pending"),
        of("claimed"),
        of("delivered"),
        of("dead"),
        of("cancelled"),
        of("rejected")
    );
    let oldest = status
        .oldest_pending_s
        .map_or("nothing is waiting".into(), |age| format!("{age} s"));
    println!("oldest     {oldest}");
    match &status.last_scan {
        Some(scan) => println!(
            "last scan  {}: {} found, {} deliveries, {} rejected, {} ms",
            scan.at, scan.found, scan.deliveries, scan.rejected, scan.duration_ms
        ),
        None => println!("last scan  never"),
    }
    match &status.stream {
        Some(stream) if stream.catching_up => println!("stream     catching up, at {}\n", stream.last_event_at),
        Some(stream) => println!("stream     at {}\n", stream.last_event_at),
        None => println!("stream     never started\n"),
    }
    let row = |one: &Endpoint| {
        let counts = [one.delivered, one.failed_attempts, one.pending, one.dead, one.cancelled];
        let texts = [
            one.owner.clone(),
            one.endpoint.clone(),
            one.name.clone(),
            one.state.to_owned(),
        ];
        texts.into_iter().chain(counts.map(|count| count.to_string())).collect()
    };
    table::print(
        &[
            "organization",
            "endpoint",
            "name",
            "state",
            "delivered",
            "failed attempts",
            "pending",
            "dead",
            "cancelled",
        ],
        &status.endpoints.iter().map(row).collect::<Vec<_>>(),
    );
}

fn text(document: &Document, field: &str) -> String {
    document.get_str(field).unwrap_or_default().to_owned()
}

fn number(document: &Document, field: &str) -> i64 {
    let number = document
        .get_i64(field)
        .or_else(|_| document.get_i32(field).map(i64::from));
    number.unwrap_or(0)
}

fn instant(document: &Document, field: &str) -> String {
    document
        .get_datetime(field)
        .ok()
        .and_then(|at| at.try_to_rfc3339_string().ok())
        .unwrap_or_default()
}
