//! The daemons that share one database: who is alive, which endpoint is whose, and who scans and watches.
//!
//! Alive is who sent a heartbeat within [`ALIVE`], by the database's clock. Claims, lanes and leases all live and die with
//! that, so nothing else needs renewing.

mod ghosts;
mod view;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::options::ReturnDocument;
use tokio::sync::watch;

use crate::model::{Clock, EndpointKey, Live};
use crate::store::{Result, Store};

use view::View;

/// A daemon that was silent for so long is dead: its claims, lanes and leases go to the others.
pub const ALIVE: Duration = Duration::from_secs(10);

/// How often a daemon sends its heartbeat.
pub const BEAT: Duration = Duration::from_secs(2);

/// Heartbeats of daemons that died are kept so long for the operator to see.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// What only one daemon does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// Scanning on schedule.
    Scan,
    /// Following the change stream.
    Watch,
}

impl Duty {
    const ALL: [Self; 2] = [Self::Scan, Self::Watch];

    /// The `_id` of its lease in `webhook_state`.
    fn lease(self) -> &'static str {
        match self {
            Self::Scan => "lease/scan",
            Self::Watch => "lease/watch",
        }
    }
}

/// This daemon's leases: the number of each that it holds. A later holder's number is higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// Scanning on schedule.
    pub scan: Option<i64>,
    /// Following the change stream.
    pub watch: Option<i64>,
}

/// One run of one daemon among the others.
#[derive(Clone)]
pub struct Cluster {
    store: Store,
    clock: Clock,
    me: Arc<str>,
    host: Arc<str>,
    view: Live<View>,
    duties: watch::Sender<Duties>,
}

impl Cluster {
    /// A new run of a daemon on `host`, with a name of its own.
    pub fn new(store: Store, clock: Clock, host: &str) -> Self {
        let me: Arc<str> = format!("{:012x}", fastrand::u64(..) >> 16).into();
        Self {
            store,
            clock,
            host: host.into(),
            view: Live::new(View::default()),
            me,
            duties: watch::Sender::default(),
        }
    }

    /// This run's name: the owner of its claims.
    pub fn me(&self) -> &Arc<str> {
        &self.me
    }

    /// The time by the cluster's clock.
    pub fn now(&self) -> DateTime {
        self.clock.now()
    }

    /// The daemons that were alive at the last heartbeat, this one among them.
    pub fn live(&self) -> Vec<String> {
        self.view.get().names(&self.me)
    }

    /// Whether this daemon delivers to that endpoint.
    pub fn owns(&self, endpoint: &EndpointKey) -> bool {
        self.view.get().owns(&self.me, endpoint)
    }

    /// This daemon's duties, and the news when it gains or loses one.
    pub fn duties(&self) -> watch::Receiver<Duties> {
        self.duties.subscribe()
    }

    /// Before the first heartbeat: forgets runs on this machine whose process is gone, so that a restart after a crash need
    /// not wait until they count as dead.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn forget_ghosts(&self) -> Result<()> {
        let Some(machine) = ghosts::machine(&self.host) else {
            return Ok(());
        };
        let state = self.store.state();
        let daemons: Vec<Document> = state.find(doc! { "machine": machine }).await?.try_collect().await?;
        for ghost in daemons
            .iter()
            .filter(|daemon| daemon.get_i64("pid").is_ok_and(ghosts::is_gone))
        {
            self.end_session(ghost).await?;
            state
                .delete_one(doc! { "_id": ghost.get("_id"), "pid": ghost.get("pid") })
                .await?;
        }
        Ok(())
    }

    /// Sends a heartbeat, corrects the clock by the database's, looks who else is alive, and takes up duties that nobody alive
    /// holds.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn beat(&self) -> Result<()> {
        let sent = Clock::local();
        let state = self.store.state();
        let beat = state.find_one_and_update(doc! { "_id": self.document() }, vec![doc! { "$set": self.signs() }]);
        let written = beat.upsert(true).return_document(ReturnDocument::After).await?;
        let Some(now) = written.and_then(|document| document.get_datetime("seenAt").ok().copied()) else {
            return Ok(());
        };
        self.clock.correct(sent, now);
        let mut view = self.look(now).await?;
        for duty in Duty::ALL {
            self.take_up(duty, &mut view).await?;
        }
        view.busy = self.busy(&view).await?;
        let duties = Duties {
            scan: view.lease(Duty::Scan, &self.me),
            watch: view.lease(Duty::Watch, &self.me),
        };
        self.view.set(view);
        self.duties
            .send_if_modified(|held| std::mem::replace(held, duties) != duties);
        Ok(())
    }

    fn signs(&self) -> Document {
        doc! {
            "host": &*self.host,
            "machine": ghosts::machine(&self.host),
            "pid": i64::from(std::process::id()),
            "session": self.store.session_id(),
            "version": env!("CARGO_PKG_VERSION"),
            "startedAt": { "$ifNull": ["$startedAt", "$$NOW"] },
            "seenAt": "$$NOW",
        }
    }

    async fn look(&self, now: DateTime) -> Result<View> {
        let filter = doc! { "_id": { "$gte": "daemon/", "$lt": "lease0" } };
        let found: Vec<Document> = self.store.state().find(filter).await?.try_collect().await?;
        let view = View::read(&found, now);
        let live = view.names(&self.me);
        for dead in found.iter().filter(|one| !live.iter().any(|live| is_of(one, live))) {
            self.end_session(dead).await?;
        }
        Ok(view)
    }

    /// Ends the session of a daemon that died, once.
    async fn end_session(&self, daemon: &Document) -> Result<()> {
        let Ok(session) = daemon.get_document("session") else {
            return Ok(());
        };
        self.store.end_session(session).await?;
        let ended = doc! { "_id": daemon.get("_id"), "session": session, "seenAt": daemon.get("seenAt") };
        let state = self.store.state();
        state
            .update_one(ended, doc! { "$unset": { "session": 1 } })
            .await
            .map(drop)
    }

    /// Takes a lease whose holder is not alive; whoever is faster has it.
    async fn take_up(&self, duty: Duty, view: &mut View) -> Result<()> {
        let live = view.names(&self.me);
        if view.holder(duty).is_some_and(|holder| live.contains(holder)) {
            return Ok(());
        }
        let filter = doc! { "_id": duty.lease(), "holder": { "$nin": live } };
        let update = doc! { "$set": { "holder": &*self.me, "since": self.clock.now() }, "$inc": { "number": 1_i64 } };
        let state = self.store.state();
        let taken = state
            .find_one_and_update(filter, update)
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await;
        match taken {
            Ok(lease) => view.add_lease(&lease.unwrap_or_default()),
            // Another daemon took it since we looked: the upsert met its document.
            Err(error) if is_duplicate(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The lanes in which another living daemon still holds claims: it had them before, and finishes what it holds, so that no
    /// endpoint gets more requests in parallel than it may.
    async fn busy(&self, view: &View) -> Result<HashSet<EndpointKey>> {
        let others: Vec<_> = view
            .names(&self.me)
            .into_iter()
            .filter(|name| **name != *self.me)
            .collect();
        if others.is_empty() {
            return Ok(HashSet::new());
        }
        let filter = doc! { "state": "claimed", "claim.by": { "$in": others } };
        let lanes = self.store.deliveries().distinct("endpoint", filter).await?;
        Ok(lanes
            .iter()
            .filter_map(Bson::as_str)
            .map(EndpointKey::from_stored)
            .collect())
    }

    /// Leaves: the others take over with their next heartbeat. Forgets daemons that died long ago.
    ///
    /// # Errors
    /// MongoDB is away; the others then wait for [`ALIVE`].
    pub async fn leave(&self) -> Result<()> {
        let state = self.store.state();
        state.delete_one(doc! { "_id": self.document() }).await?;
        let long_ago = self.clock.now().timestamp_millis() - i64::try_from(REMEMBERED.as_millis()).unwrap_or(0);
        let dead = doc! {
            "_id": { "$gte": "daemon/", "$lt": "daemon0" },
            "seenAt": { "$lt": DateTime::from_millis(long_ago) },
        };
        state.delete_many(dead).await?;
        Ok(())
    }

    fn document(&self) -> String {
        format!("daemon/{}", self.me)
    }
}

fn is_of(document: &Document, daemon: &str) -> bool {
    document
        .get_str("_id")
        .is_ok_and(|id| id.strip_prefix("daemon/") == Some(daemon))
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    crate::store::command_code(error) == Some(11000)
}
