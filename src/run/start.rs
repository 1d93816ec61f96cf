//! Before the work: a database that replies, is what it must be, and has its indexes.

use std::time::Instant;

use bson::{Document, doc};
use mongodb::options::Hint;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::Config;
use crate::service::systemd::Manager;
use crate::store::{
    Backoff, Error, Kind, NEEDS_REPLICA_SET, Outage, Result, Store, ensure_outbox, ensure_scan, ensure_statistics,
};

/// Something that needs a change of the configuration (ours, or MongoDB's): exit code 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// MongoDB's `BadValue`: a hint that names no index.
const BAD_VALUE: i32 = 2;

/// `CannotCreateIndex`, `IndexOptionsConflict`, `IndexKeySpecsConflict`, `InvalidIndexSpecificationOption`.
const INDEX_CONFLICTS: [i32; 4] = [67, 85, 86, 197];

/// Waits for MongoDB, however long it takes, and prepares it. `give_up` ends every later wait of the store's.
///
/// # Errors
/// [`Misconfigured`] for what waiting can't change; anything else when `stop` came first.
pub async fn connect(
    config: &Config,
    manager: &Manager,
    stop: &CancellationToken,
    give_up: CancellationToken,
) -> anyhow::Result<Store> {
    let store = reach(config, manager, stop, give_up).await?;
    let wait = Wait {
        outage: store.outage().clone(),
        manager,
        stop,
    };
    let prepare = async {
        wait.until_done("look for an outbox of certhookd 0.1", || refuse_first_layout(&store))
            .await??;
        wait.for_indexes(&store, config).await
    };
    match prepare.await {
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
    // There is no store yet, whose outage it could be: its hosts may have to be looked up.
    let wait = Wait {
        outage: Outage::default(),
        manager,
        stop,
    };
    let build = || async {
        match Store::new(&config.mongodb, give_up.clone()).await {
            Err(error) if error.kind() == Kind::Unavailable => Err(error),
            built => Ok(built),
        }
    };
    let built = wait.until_done("find the hosts of mongodb.uri", build).await?;
    let store = built.map_err(|error| Misconfigured(format!("mongodb.uri: {error}")))?;
    let wait = Wait {
        outage: store.outage().clone(),
        manager,
        stop,
    };
    let fault = match wait.for_reply(&store).await {
        Ok(hello) if is_replica_set(&hello) => return Ok(store),
        Ok(_) => Misconfigured(NEEDS_REPLICA_SET.into()).into(),
        Err(error) => error,
    };
    store.close().await;
    Err(fault)
}

/// Whether that reply to `hello` comes from a replica set or a router.
pub fn is_replica_set(hello: &Document) -> bool {
    hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|message| message == "isdbgrid")
}

/// Waits at the start: for as long as an outage lasts, and not for what MongoDB refuses.
struct Wait<'a> {
    outage: Outage,
    manager: &'a Manager,
    stop: &'a CancellationToken,
}

impl Wait<'_> {
    async fn for_reply(&self, store: &Store) -> anyhow::Result<Document> {
        let list = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
        let ask = || async {
            match store.database().run_command(list.clone()).await.map_err(Error::from) {
                Ok(_) => Ok(Ok(())),
                Err(error) if error.kind() == Kind::Unavailable => match store.contradiction().await {
                    Some(contradiction) => Ok(Err(Misconfigured(contradiction))),
                    None => Err(error),
                },
                Err(error) => Err(store.explained(error)),
            }
        };
        self.until_done("reply", ask).await??;
        info!("connected to MongoDB");
        self.until_done("reply", || store.hello()).await
    }

    async fn for_indexes(&self, store: &Store, config: &Config) -> anyhow::Result<()> {
        let retention = config.delivery.retention;
        self.until_done("create the outbox's indexes", || ensure_outbox(store, retention))
            .await?;
        self.for_statistics(store).await?;
        if config.scan.ensure_indexes {
            self.until_done("create the scan's index", || ensure_scan(store))
                .await?;
        }
        Ok(())
    }

    /// Statistics are no condition of starting: a refusal is logged, and that is all.
    async fn for_statistics(&self, store: &Store) -> anyhow::Result<()> {
        let what = "create the statistics' indexes";
        let is_final = |error: &Error| error.kind().is_refusal();
        let create = || ensure_statistics(store);
        match self.until(what, is_final, create).await {
            Err(refused) if refused.is::<Misconfigured>() => {
                error!("{refused}; without them statistics are slow to read and kept for ever");
                Ok(())
            }
            done => done,
        }
    }

    async fn until_done<T, F>(&self, what: &'static str, operation: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.until(what, is_refusal, operation).await
    }

    async fn until<T, F>(
        &self,
        what: &'static str,
        is_final: impl Fn(&Error) -> bool,
        mut operation: impl FnMut() -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = Backoff::default();
        let mut reporter = self.outage.reporter();
        loop {
            let began = Instant::now();
            match operation().await {
                Ok(value) => {
                    reporter.succeeded();
                    return Ok(value);
                }
                Err(error) if is_final(&error) => {
                    return Err(Misconfigured(refusal(what, &error)).into());
                }
                Err(error) => reporter.failed(what, &error, began),
            }
            self.manager.starting("waiting for MongoDB");
            tokio::select! {
                () = self.stop.cancelled() => anyhow::bail!("stopped before MongoDB was reached"),
                () = backoff.wait() => {}
            }
        }
    }
}

/// Whether waiting is of no use: a login, a privilege, an index of the same name with other keys, a URI that makes no sense. What
/// MongoDB refuses with any other code is waited for, because systemd does not restart after exit code 78.
pub fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        Kind::Denied | Kind::Authentication => true,
        Kind::Refused => error.code().is_none_or(|code| INDEX_CONFLICTS.contains(&code)),
        Kind::Unavailable | Kind::Conflict | Kind::TooLarge => false,
    }
}

fn refusal(what: &str, error: &Error) -> String {
    match error.denied() {
        Some(denied) => format!(
            "MongoDB refuses to {what}: {error}; add to the role: {}",
            denied.role_line()
        ),
        None if error.kind() == Kind::Authentication => format!("MongoDB refuses the login: {error}"),
        None => format!("MongoDB refuses to {what}: {error}"),
    }
}

/// The outbox of certhookd 0.1.
const FIRST_LAYOUT: &str = "webhook_deliveries";

/// Refuses to start beside an outbox of certhookd 0.1 in which deliveries still wait: nothing here would send them.
///
/// # Errors
/// The inner one: deliveries wait there. The outer one: MongoDB is unavailable, or refused the login.
pub async fn refuse_first_layout(store: &Store) -> Result<std::result::Result<(), Misconfigured>> {
    let list = doc! { "listCollections": 1, "filter": { "name": FIRST_LAYOUT }, "nameOnly": true, "authorizedCollections": true };
    let reply = store.database().run_command(list).await?;
    let first = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    if first.is_ok_and(Vec::is_empty) {
        return Ok(Ok(()));
    }
    for state in ["pending", "claimed"] {
        match waits(store, state).await {
            Ok(false) => {}
            Ok(true) => {
                return Ok(Err(Misconfigured(format!(
                    "{FIRST_LAYOUT} still holds deliveries that are {state}: they are those of certhookd 0.1, which must send or cancel them before this version starts"
                ))));
            }
            // This version needs no privilege there.
            Err(error) if error.kind() == Kind::Denied => return Ok(Ok(())),
            Err(error) => return Err(error),
        }
    }
    info!("{FIRST_LAYOUT} is the outbox of certhookd 0.1: it is not used any more and can be dropped");
    Ok(Ok(()))
}

/// Whether a delivery of certhookd 0.1 is in that state: by the index of the same name, which holds nothing else.
async fn waits(store: &Store, state: &str) -> Result<bool> {
    let deliveries = store.database().collection::<Document>(FIRST_LAYOUT);
    let find = || deliveries.find_one(doc! { "state": state });
    let hinted = find().hint(Hint::Name(state.into())).await.map_err(Error::from);
    match hinted {
        Err(error) if error.code() == Some(BAD_VALUE) => Ok(find().await?.is_some()),
        found => Ok(found?.is_some()),
    }
}
