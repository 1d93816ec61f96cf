//! Before the work: a database that answers, is what it must be, and has its indexes.

use std::time::Instant;

use bson::Document;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Config;
use crate::service::systemd::Manager;
use crate::store::{Backoff, Result, Store, command_code, ensure_deliveries, ensure_scan, ensure_statistics};

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
    let store = reach(config, manager, stop, give_up).await?;
    let wait = Wait {
        store: &store,
        manager,
        stop,
    };
    match wait.for_indexes(config).await {
        Ok(()) => Ok(store),
        Err(error) => {
            store.close().await;
            Err(error)
        }
    }
}

/// Waits for MongoDB, and changes nothing there.
///
/// # Errors
/// As [`connect`].
pub async fn reach(
    config: &Config,
    manager: &Manager,
    stop: &CancellationToken,
    give_up: CancellationToken,
) -> anyhow::Result<Store> {
    let store = Store::new(&config.mongodb, give_up)
        .await
        .map_err(|error| Misconfigured(format!("mongodb.uri: {error}")))?;
    let wait = Wait {
        store: &store,
        manager,
        stop,
    };
    let fault = match wait.for_answer().await {
        Ok(hello) if config.completions.enabled && !is_replica_set(&hello) => {
            Misconfigured(NEEDS_REPLICA_SET.into()).into()
        }
        Ok(_) => return Ok(store),
        Err(error) => error,
    };
    store.close().await;
    Err(fault)
}

/// Whether that answer to `hello` comes from a replica set or a router.
pub fn is_replica_set(hello: &Document) -> bool {
    hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|message| message == "isdbgrid")
}

/// A wait at the start: an outage may last, a refusal ends it.
struct Wait<'a> {
    store: &'a Store,
    manager: &'a Manager,
    stop: &'a CancellationToken,
}

impl Wait<'_> {
    async fn for_answer(&self) -> anyhow::Result<Document> {
        let list = bson::doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
        let database = self.store.database();
        self.until_done("answer", || async { database.run_command(list.clone()).await })
            .await?;
        info!("connected to MongoDB");
        self.until_done("answer", || self.store.hello()).await
    }

    async fn for_indexes(&self, config: &Config) -> anyhow::Result<()> {
        let retention = config.delivery.retention;
        self.until_done("create the outbox's indexes", || {
            ensure_deliveries(self.store, retention)
        })
        .await?;
        self.until_done("create the statistics' indexes", || ensure_statistics(self.store))
            .await?;
        if config.scan.ensure_indexes {
            self.until_done("create the scan's index", || ensure_scan(self.store))
                .await?;
        }
        Ok(())
    }

    async fn until_done<T, F>(&self, what: &'static str, mut operation: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (mut backoff, mut tries) = (Backoff::default(), self.store.outage().tries());
        loop {
            let began = Instant::now();
            match operation().await {
                Ok(value) => {
                    tries.succeeded();
                    return Ok(value);
                }
                Err(error) if is_refusal(&error) => {
                    return Err(Misconfigured(format!("MongoDB refuses to {what}: {error}")).into());
                }
                Err(error) => tries.failed(what, &error, began),
            }
            self.manager.starting("waiting for MongoDB");
            tokio::select! {
                () = self.stop.cancelled() => anyhow::bail!("stopped before MongoDB was reached"),
                () = backoff.wait() => {}
            }
        }
    }
}

/// Authentication failed, a privilege is missing, or an index is in the way (same name, other keys): no waiting mends it.
pub fn is_refusal(error: &mongodb::error::Error) -> bool {
    matches!(*error.kind, mongodb::error::ErrorKind::Authentication { .. })
        || matches!(command_code(error), Some(13 | 18 | 85 | 86))
}
