//! The database: one client, the collections, transactions, kinds of errors, and how to wait for MongoDB when it is unavailable.

mod backoff;
mod command;
mod connection;
mod denied;
mod error;
mod error_kind;
mod indexes;
mod options;
mod outage;
mod pauses;
mod persist;
mod privileges;
mod progress;
mod read_session;
mod reply;
mod token;
mod topology;
mod transaction;
mod write;

use std::sync::Arc;

use bson::{DateTime, Document, RawDocumentBuf, doc};
use mongodb::options::ClientOptions;
use mongodb::{ClientSession, Collection, Database};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::config::Mongodb;
use connection::Connection;
use options::durable;

pub(crate) use backoff::Backoff;
pub use command::{WriteReply, extended, increased, insert_if_absent, update_row, upsert_row};
pub use denied::Denied;
pub use error::{Error, RowError};
pub use error_kind::Kind;
pub use indexes::{
    SCAN_INDEX, ensure_operations, ensure_outbox, ensure_scan, ensure_statistics, missing_in_outbox, scan_index,
};
pub use outage::{Outage, Reporter};
pub use pauses::Pauses;
pub use privileges::{Login, Privilege, needed};
pub use progress::with_progress;
pub use read_session::ReadSession;
pub use token::loses_token;
pub use topology::NEEDS_REPLICA_SET;
pub use transaction::{Transaction, Writer};

/// The collection of batches.
pub const OUTBOX: &str = "webhook_outbox";

/// The collection of heartbeats, the lease, the position and the states of endpoints.
pub const STATE: &str = "webhook_state";

/// The `_id` of the lease for finding events, in [`STATE`].
pub const LEASE: &str = "lease/source";

/// The collection of the statistics.
pub const STATISTICS: &str = "webhook_stats";

/// The collection of what operators and the back office ask for.
pub const OPERATIONS: &str = "webhook_operations";

/// The `_id` of the control number in [`STATE`].
pub const CONTROL: &str = "control";

/// What an operation on MongoDB returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The daemon is stopping: what was asked for did not happen, and must not be asked again.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopped;

/// The collections. Writes are majority and journaled.
///
/// Handles belong to the present client: they are asked for anew for each operation, because a new client may have replaced it.
#[derive(Clone, Debug)]
pub struct Store {
    connection: Arc<Connection>,
    badge_users: String,
    member_configs: String,
    hosts: String,
    /// Who logs in, in words; none without a login.
    login: Option<String>,
    overridden: Vec<String>,
    outage: Outage,
    stop: CancellationToken,
}

impl Store {
    /// Builds the client; connects on first use. `stop` ends every wait for a database that is unavailable.
    ///
    /// # Errors
    /// A URI or TLS file that makes no sense; a host name that can't be looked up is [`Kind::Unavailable`].
    pub async fn new(config: &Mongodb, stop: CancellationToken) -> Result<Self> {
        let mut options = ClientOptions::parse(config.uri.expose_secret()).await?;
        let overridden = options::set_required(&mut options);
        let hosts: Vec<_> = options.hosts.iter().map(ToString::to_string).collect();
        let login = options.credential.as_ref().and_then(options::login);
        let connection = Arc::new(Connection::new(options, &config.database).await?);
        Ok(Self {
            outage: Outage::of(Arc::clone(&connection)),
            connection,
            badge_users: config.badge_users.clone(),
            member_configs: config.member_configs.clone(),
            hosts: hosts.join(","),
            login,
            overridden,
            stop,
        })
    }

    /// The hosts of the connection string.
    pub fn hosts(&self) -> &str {
        &self.hosts
    }

    /// That error; where the login is refused, it says whose and where MongoDB looks the user up.
    pub fn explained(&self, error: impl Into<Error>) -> Error {
        let error = error.into();
        match &self.login {
            Some(login) if error.kind() == Kind::Authentication => error.about(login),
            _ => error,
        }
    }

    /// A line for each option of the connection string that contradicts what the protocol relies on, and is not applied.
    pub fn overridden(&self) -> &[String] {
        &self.overridden
    }

    /// The platform's certificates.
    pub fn badge_users(&self) -> Collection<RawDocumentBuf> {
        self.database().collection(&self.badge_users)
    }

    /// The platform's organizations.
    pub fn member_configs(&self) -> Collection<RawDocumentBuf> {
        self.database().collection(&self.member_configs)
    }

    /// What operators and the back office ask for.
    pub fn operations(&self) -> Collection<Document> {
        self.database().collection(OPERATIONS)
    }

    /// Our outbox.
    pub fn outbox(&self) -> Collection<RawDocumentBuf> {
        self.database().collection(OUTBOX)
    }

    /// Our statistics, per endpoint and day.
    pub fn statistics(&self) -> Collection<Document> {
        self.database().collection(STATISTICS)
    }

    /// Our heartbeats, lease, resume token, endpoint states and scan report.
    pub fn state(&self) -> Collection<Document> {
        self.database().collection(STATE)
    }

    /// The database itself, for commands.
    pub fn database(&self) -> Database {
        self.connection.database()
    }

    /// Whether MongoDB is unavailable just now.
    pub fn outage(&self) -> &Outage {
        &self.outage
    }

    /// The reply to `hello`: `setName` is there on a replica set, `localTime` is its clock.
    ///
    /// # Errors
    /// The server can't be reached, or refuses the login.
    pub async fn hello(&self) -> Result<Document> {
        let reply = self.database().run_command(doc! { "hello": 1 }).await;
        reply.map_err(|error| self.explained(error))
    }

    /// The time of the database's clock.
    ///
    /// # Errors
    /// The server can't be reached, or refuses the login.
    pub async fn database_time(&self) -> Result<DateTime> {
        let hello = self.hello().await?;
        Ok(*hello.get_datetime("localTime").map_err(mongodb::error::Error::custom)?)
    }

    /// Where no server is usable: how those that reply contradict the connection string.
    pub async fn contradiction(&self) -> Option<String> {
        self.connection.contradiction().await
    }

    /// Waits until the daemon stops waiting for MongoDB.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// A causally consistent session of the present client: what is read in it is no older than what was written in it.
    ///
    /// # Errors
    /// MongoDB is unavailable.
    pub async fn start_session(&self) -> Result<ClientSession> {
        let client = self.connection.client();
        Ok(client.start_session().causal_consistency(true).await?)
    }

    /// Whether MongoDB confirms a write that is certainly valid. If it does, another write that it refuses is refused for its own
    /// content.
    ///
    /// # Errors
    /// It does not.
    pub async fn probe(&self) -> Result<()> {
        let state = self.state();
        let n = doc! { "$cond": [{ "$isNumber": "$n" }, { "$add": ["$n", 1_i64] }, 1_i64] };
        let write = state.update_one(doc! { "_id": "probe" }, vec![doc! { "$set": { "n": n } }]);
        write.upsert(true).await?;
        Ok(())
    }

    /// Closes the client. Must come last: dropping the client while the runtime goes down can panic in the driver.
    pub async fn close(self) {
        self.connection.close().await;
    }
}
