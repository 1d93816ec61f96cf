//! The database: one client, the collections, and how to wait for MongoDB when it is away.

mod command;
mod indexes;
mod outage;
mod token;
mod unit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, ClientSession, Collection, Database};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::Mongodb;

pub(crate) use command::insert_if_absent;
pub use command::{RowError, WriteReply, update_row};
pub use indexes::{SCAN_INDEX, ensure_deliveries, ensure_scan, ensure_statistics, scan_index};
pub(crate) use outage::Backoff;
pub use outage::{Outage, Tries};
pub(crate) use token::loses_token;
pub(crate) use unit::{Unit, has_no_transactions};

/// How long one operation waits for a usable server before it counts as failed.
const SERVER_SELECTION: Duration = Duration::from_secs(5);

/// How long a server that does not answer is asked to end our sessions.
const CLOSING: Duration = Duration::from_secs(1);

/// MongoDB's `WriteConflict`.
const WRITE_CONFLICT: i32 = 112;

/// A result of the driver's.
pub type Result<T> = std::result::Result<T, mongodb::error::Error>;

/// The daemon is stopping: what was asked for did not happen, and is not to be asked again.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopped;

/// The collections, and the way to them. Cheap to clone. Writes are majority and journaled.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    database: Database,
    badge_users: String,
    member_configs: String,
    /// Of transactions: see `Store::begin`.
    session: Arc<Mutex<ClientSession>>,
    session_id: Document,
    outage: Outage,
    stop: CancellationToken,
}

impl Store {
    /// Builds the client; connects on first use. `stop` ends every wait for a database that is away.
    ///
    /// # Errors
    /// A URI or TLS file that makes no sense.
    pub async fn new(config: &Mongodb, stop: CancellationToken) -> Result<Self> {
        let mut options = ClientOptions::parse(config.uri.expose_secret()).await?;
        options.app_name.get_or_insert_with(|| "certhookd".into());
        options.server_selection_timeout.get_or_insert(SERVER_SELECTION);
        options.write_concern = Some(durable());
        let client = Client::with_options(options)?;
        let session = client.start_session().await?;
        Ok(Self {
            database: client.database(&config.database),
            session_id: session.id().clone(),
            session: Arc::new(Mutex::new(session)),
            client,
            badge_users: config.badge_users.clone(),
            member_configs: config.member_configs.clone(),
            outage: Outage::default(),
            stop,
        })
    }

    /// The platform's certificates.
    pub fn badge_users(&self) -> Collection<RawDocumentBuf> {
        self.database.collection(&self.badge_users)
    }

    /// The platform's organizations.
    pub fn member_configs(&self) -> Collection<RawDocumentBuf> {
        self.database.collection(&self.member_configs)
    }

    /// Our outbox.
    pub fn deliveries(&self) -> Collection<RawDocumentBuf> {
        self.database.collection(DELIVERIES)
    }

    /// Our statistics, per endpoint and day.
    pub fn statistics(&self) -> Collection<Document> {
        self.database.collection(STATISTICS)
    }

    /// Our heartbeats, leases, resume token and scan report.
    pub fn state(&self) -> Collection<Document> {
        self.database.collection("webhook_state")
    }

    /// The database itself, for commands.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Whether MongoDB is away just now.
    pub fn outage(&self) -> &Outage {
        &self.outage
    }

    /// Asks the server who it is: `setName` is there on a replica set, `localTime` is its clock.
    ///
    /// # Errors
    /// The server can't be reached, or refuses the credentials.
    pub async fn hello(&self) -> Result<Document> {
        self.database.run_command(doc! { "hello": 1 }).await
    }

    /// Runs `operation` until it succeeds, backing off from 100 ms to 5 s, or until the daemon stops. `what` names it in the log.
    ///
    /// Whatever is handed in must be safe to repeat: an answer may be lost after the write was done.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn persist<T, F>(
        &self,
        what: &'static str,
        mut operation: impl FnMut() -> F,
    ) -> std::result::Result<T, Stopped>
    where
        F: Future<Output = Result<T>>,
    {
        let (mut backoff, mut tries) = (Backoff::default(), self.outage.tries());
        loop {
            let began = Instant::now();
            match operation().await {
                Ok(value) => {
                    tries.succeeded();
                    return Ok(value);
                }
                // The platform changed what our transaction changes: no outage.
                Err(error) if command_code(&error) == Some(WRITE_CONFLICT) => {}
                Err(error) => tries.failed(what, &error, began),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(Stopped),
                () = backoff.wait() => {}
            }
        }
    }

    /// Closes the client. Must come last: dropping the client while the runtime goes down can panic in the driver.
    pub async fn close(self) {
        let _ = tokio::time::timeout(CLOSING, self.client.shutdown().immediate(true)).await;
    }
}

/// A write is confirmed when a majority has it in its journal: what is confirmed is never rolled back.
fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

/// The outbox's collection.
pub const DELIVERIES: &str = "webhook_deliveries";

/// The collection of the statistics.
pub const STATISTICS: &str = "webhook_stats";

/// What went wrong, in one line: without the driver's copy of the server's answer.
pub fn reason(error: &mongodb::error::Error) -> String {
    error.kind.to_string().replace(['\n', '\r'], " ")
}

/// The code of a command that MongoDB refused.
pub fn command_code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}
