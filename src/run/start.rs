//! Before the work: a database that answers, is what it must be, and has its indexes.

use bson::Document;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Config;
use crate::service::systemd::Manager;
use crate::store::{Backoff, Store, command_code, ensure_deliveries, ensure_scan};

/// Something that only a change of the configuration (ours, or MongoDB's) can mend: exit code 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// What to do about a standalone mongod.
pub const NEEDS_REPLICA_SET: &str = "completions need a change stream, and change streams need a replica set, but this mongod is standalone: start it with --replSet rs0 and run rs.initiate() once (one member is enough), or set completions.enabled = false";

/// Waits for MongoDB, however long it takes, and prepares it. `give_up` ends every later wait of the store's.
///
/// # Errors
/// [`Misconfigured`] for what waiting can't mend; anything else when `stop` came first.
pub async fn connect(
    config: &Config,
    manager: &Manager,
    stop: &CancellationToken,
    give_up: CancellationToken,
) -> anyhow::Result<Store> {
    let store = Store::new(&config.mongodb, give_up)
        .await
        .map_err(|error| Misconfigured(format!("mongodb.uri: {error}")))?;
    let hello = reach(&store, manager, stop).await?;
    if config.completions.enabled && !is_replica_set(&hello) {
        return Err(Misconfigured(NEEDS_REPLICA_SET.into()).into());
    }
    store
        .persist("create the outbox's indexes", || {
            ensure_deliveries(&store, config.delivery.retention)
        })
        .await?;
    if config.scan.ensure_indexes {
        store.persist("create the scan's index", || ensure_scan(&store)).await?;
    }
    Ok(store)
}

/// Whether that answer to `hello` comes from a replica set or a router.
pub fn is_replica_set(hello: &Document) -> bool {
    hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|message| message == "isdbgrid")
}

async fn reach(store: &Store, manager: &Manager, stop: &CancellationToken) -> anyhow::Result<Document> {
    let mut backoff = Backoff::default();
    loop {
        match store
            .database()
            .run_command(bson::doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true })
            .await
        {
            Ok(_) => {
                store.outage().ended();
                info!("connected to MongoDB");
                return Ok(store.hello().await?);
            }
            Err(error) if is_refusal(&error) => {
                return Err(Misconfigured(format!("MongoDB refuses this user: {error}")).into());
            }
            Err(error) => store.outage().began("answer", &error),
        }
        manager.starting("waiting for MongoDB");
        tokio::select! {
            () = stop.cancelled() => anyhow::bail!("stopped before MongoDB was reached"),
            () = backoff.wait() => {}
        }
    }
}

/// Authentication failed, or a privilege is missing: no waiting mends it.
pub fn is_refusal(error: &mongodb::error::Error) -> bool {
    matches!(*error.kind, mongodb::error::ErrorKind::Authentication { .. })
        || matches!(command_code(error), Some(13 | 18))
}
