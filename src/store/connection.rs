//! The client, and a new one when its login is gone.
//!
//! A database user that is dropped and created again leaves connections that belong to nobody: what they are asked is refused,
//! and the driver keeps them. Only new connections log in again, so a new client takes the old one's place.

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

/// From one look at the login to the next.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// How long a server that does not reply is asked to end our sessions.
const CLOSING: Duration = Duration::from_secs(1);

/// A client, and its place in the order of clients.
#[derive(Clone)]
struct Numbered {
    client: Client,
    number: u64,
}

/// As many as there are [`Writer`]s.
const WRITERS: usize = 6;

/// The session of a [`Writer`].
pub(super) struct WriterSession {
    pub(super) session: ClientSession,
    /// Whose session it is.
    number: u64,
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
    /// When the present client took the place of another.
    replaced: Mutex<Option<Instant>>,
    /// When the login was last looked at. Locked while it is.
    looked: Arc<tokio::sync::Mutex<Option<Instant>>>,
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
            looked: Arc::default(),
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

    /// Waits until another client has taken the place of the one with that number.
    pub(super) async fn renewed(&self, number: u64) {
        // Fails only once the sender is gone, and that is `self`.
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
        let place = writer as usize;
        let mut held = Arc::clone(&self.writers[place]).lock_owned().await;
        let present = self.present.borrow().clone();
        if held.number != present.number {
            let mut session = present.client.start_session().await?;
            self.last_confirmed().precedes(&mut session);
            self.session_ids.lock()[place] = session.id().clone();
            let old = std::mem::replace(&mut held.session, session);
            held.number = present.number;
            // What its transaction has changed would stay locked for a minute. Best effort: some hosted clusters don't allow it.
            let end = doc! { "killSessions": [old.id()] };
            let _ = self.database_of(&present.client).run_command(end).await;
        }
        Ok(held)
    }

    /// A transaction of that session was committed.
    pub(super) fn confirmed(&self, session: &ClientSession) {
        self.confirm(session.operation_time(), session.cluster_time().cloned());
    }

    /// A majority has confirmed a write of that time.
    pub(super) fn confirm(&self, operation_time: Option<Timestamp>, cluster_time: Option<ClusterTime>) {
        let mut confirmed = self.confirmed.lock();
        confirmed.operation_time = confirmed.operation_time.max(operation_time);
        if confirmed.cluster_time < cluster_time {
            confirmed.cluster_time = cluster_time;
        }
    }

    /// The latest of these.
    pub(super) fn last_confirmed(&self) -> Confirmed {
        self.confirmed.lock().clone()
    }

    /// After such an error: has a new client made if the login is gone, at most every few seconds.
    pub(super) fn suspect(self: &Arc<Self>, error: &Error) {
        let about_login = matches!(error.kind(), Kind::Denied | Kind::Authentication);
        if !about_login || self.options.credential.is_none() {
            return;
        }
        let Ok(mut looked) = Arc::clone(&self.looked).try_lock_owned() else {
            return;
        };
        if looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return;
        }
        let (connection, gone) = (Arc::clone(self), error.login_is_gone());
        tokio::spawn(async move {
            connection.look(gone).await;
            *looked = Some(Instant::now());
        });
    }

    /// Makes a new client if the present one's connections have no login and those of a new one do.
    async fn look(&self, gone: bool) {
        // One connection of many is asked, and it may be a new one: who was told that the login is gone knows better.
        let gone = gone || matches!(self.is_logged_in(&self.client()).await, Ok(false));
        if !gone {
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
            let _looking = self.looked.lock().await;
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
