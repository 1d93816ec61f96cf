//! The client, and a new one when its login is lost.
//!
//! A database user that is dropped and created again leaves connections without a user: their commands are refused,
//! and the driver keeps them. Only new connections log in again, so a new client replaces the old one.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Document, Timestamp, doc};
use mongodb::error::ErrorKind;
use mongodb::options::ClientOptions;
use mongodb::{Client, ClientSession, ClusterTime, Database};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};
use tracing::info;

use super::{Error, Kind, Result, Writer, topology};

/// How often the login is checked, at most.
const CHECK_EVERY: Duration = Duration::from_secs(3);

/// How long a server that does not reply is asked to end our sessions.
const CLOSING: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Numbered {
    client: Client,
    /// How many there were before it.
    number: u64,
}

/// As many as there are [`Writer`]s.
const WRITERS: usize = 7;

/// The session of a [`Writer`].
pub(super) struct WriterSession {
    pub(super) session: ClientSession,
    /// The client's.
    pub(super) number: u64,
}

/// The time of the last write that a majority has confirmed.
#[derive(Clone, Default)]
pub(super) struct Confirmed {
    operation_time: Option<Timestamp>,
    cluster_time: Option<ClusterTime>,
}

impl Confirmed {
    /// What that session reads from now on is no older.
    pub(super) fn precedes(&self, session: &mut ClientSession) {
        if let Some(time) = &self.cluster_time {
            session.advance_cluster_time(time);
        }
        if let Some(time) = self.operation_time {
            session.advance_operation_time(time);
        }
    }
}

/// The way to MongoDB.
pub(super) struct Connection {
    options: ClientOptions,
    database: String,
    present: watch::Sender<Numbered>,
    writers: [Arc<tokio::sync::Mutex<WriterSession>>; WRITERS],
    session_ids: Mutex<[Document; WRITERS]>,
    confirmed: Mutex<Confirmed>,
    /// When the present client replaced another.
    replaced: Mutex<Option<Instant>>,
    /// When the login was last checked. Locked while it is.
    checked: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Connection {
    pub(super) async fn new(options: ClientOptions, database: &str) -> Result<Self> {
        let client = client(&options)?;
        let sessions = [
            client.start_session().await?,
            client.start_session().await?,
            client.start_session().await?,
            client.start_session().await?,
            client.start_session().await?,
            client.start_session().await?,
            client.start_session().await?,
        ];
        let session_ids = sessions.each_ref().map(|session| session.id().clone());
        let writer = |session| Arc::new(tokio::sync::Mutex::new(WriterSession { session, number: 0 }));
        Ok(Self {
            options,
            database: database.to_owned(),
            present: watch::Sender::new(Numbered { client, number: 0 }),
            writers: sessions.map(writer),
            session_ids: Mutex::new(session_ids),
            confirmed: Mutex::default(),
            replaced: Mutex::default(),
            checked: Arc::default(),
        })
    }

    pub(super) fn client(&self) -> Client {
        self.present.borrow().client.clone()
    }

    /// How many clients there were before the present one.
    pub(super) fn number(&self) -> u64 {
        self.present.borrow().number
    }

    /// Whether the client that was there at that instant was replaced since.
    pub(super) fn was_replaced_since(&self, instant: Instant) -> bool {
        self.replaced.lock().is_some_and(|replaced| instant <= replaced)
    }

    /// Waits until another client has replaced the one with that number.
    pub(super) async fn renewed(&self, number: u64) {
        // Fails only once the sender is dropped, and that is `self`.
        let _ = self
            .present
            .subscribe()
            .wait_for(|present| present.number != number)
            .await;
    }

    pub(super) fn database(&self) -> Database {
        self.database_of(&self.client())
    }

    /// The database as that client knows it.
    pub(super) fn database_of(&self, client: &Client) -> Database {
        client.database(&self.database)
    }

    pub(super) fn session_ids(&self) -> Vec<Document> {
        self.session_ids.lock().to_vec()
    }

    /// The writer's session, once it is free, as a session of the present client.
    pub(super) async fn writer(&self, writer: Writer) -> Result<OwnedMutexGuard<WriterSession>> {
        let index = writer as usize;
        let mut locked = Arc::clone(&self.writers[index]).lock_owned().await;
        let present = self.present.borrow().clone();
        if locked.number != present.number {
            let mut session = present.client.start_session().await?;
            self.last_confirmed().precedes(&mut session);
            self.session_ids.lock()[index] = session.id().clone();
            let old = std::mem::replace(&mut locked.session, session);
            locked.number = present.number;
            // What its transaction has changed would stay locked for a minute. Best effort: some hosted clusters don't allow it.
            let end = doc! { "killSessions": [old.id()] };
            let _ = self.database_of(&present.client).run_command(end).await;
        }
        Ok(locked)
    }

    /// A transaction of that session was committed.
    pub(super) fn confirmed(&self, session: &ClientSession) {
        let mut confirmed = self.confirmed.lock();
        confirmed.operation_time = confirmed.operation_time.max(session.operation_time());
        if confirmed.cluster_time.as_ref() < session.cluster_time() {
            confirmed.cluster_time = session.cluster_time().cloned();
        }
    }

    /// The latest of these.
    pub(super) fn last_confirmed(&self) -> Confirmed {
        self.confirmed.lock().clone()
    }

    /// After such an error: has a new client made if the login is lost, at most every few seconds.
    pub(super) fn suspect(self: &Arc<Self>, error: &Error) {
        let about_login = matches!(error.kind(), Kind::Denied | Kind::Authentication);
        if !about_login || self.options.credential.is_none() {
            return;
        }
        let Ok(mut checked) = Arc::clone(&self.checked).try_lock_owned() else {
            return;
        };
        if checked.is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return;
        }
        let connection = Arc::clone(self);
        let is_lost = error.login_is_lost();
        tokio::spawn(async move {
            connection.check_login(is_lost).await;
            *checked = Some(Instant::now());
        });
    }

    /// Makes a new client if the present one's connections have no login and those of a new one do.
    async fn check_login(&self, is_lost: bool) {
        // One connection of many is asked, and it may be a new one: an error that says that the login is lost is more certain.
        let is_lost = is_lost || matches!(self.is_logged_in(&self.client()).await, Ok(false));
        if !is_lost {
            return;
        }
        let Ok(client) = client(&self.options) else {
            return;
        };
        if matches!(self.is_logged_in(&client).await, Ok(true)) {
            self.replace(client).await;
        } else {
            client.shutdown().immediate(true).await;
        }
    }

    async fn is_logged_in(&self, client: &Client) -> Result<bool> {
        let status = self
            .database_of(client)
            .run_command(doc! { "connectionStatus": 1 })
            .await?;
        let users = status
            .get_document("authInfo")
            .and_then(|info| info.get_array("authenticatedUsers"));
        Ok(users.is_ok_and(|users| !users.is_empty()))
    }

    async fn replace(&self, client: Client) {
        let number = self.number() + 1;
        *self.replaced.lock() = Some(Instant::now());
        let old = self.present.send_replace(Numbered { client, number });
        info!(
            "logged in to MongoDB again: the connections had lost their login, as they do when the user is created anew"
        );
        old.client.shutdown().immediate(true).await;
    }

    pub(super) async fn contradiction(&self) -> Option<String> {
        topology::contradiction(&self.options).await
    }

    /// Closes the client. Must come last: dropping the client while the runtime goes down can panic in the driver.
    pub(super) async fn close(&self) {
        let closing = async {
            let _checking = self.checked.lock().await;
            self.client().shutdown().immediate(true).await;
        };
        let _ = tokio::time::timeout(CLOSING, closing).await;
    }
}

fn client(options: &ClientOptions) -> Result<Client> {
    Client::with_options(options.clone()).map_err(|error| match &*error.kind {
        // Nothing is asked of the network yet.
        ErrorKind::Io(error) => Error::refused(format!("a file that the connection string names: {error}")),
        _ => error.into(),
    })
}

/// Without the options: they name the hosts.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
