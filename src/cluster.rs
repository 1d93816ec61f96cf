//! The daemons that share one database: who is alive, and which endpoint is whose.
//!
//! Alive is who sent a heartbeat within [`ALIVE`], by the database's clock. Claims and lanes live and die with that.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::options::ReturnDocument;
use sha2::{Digest, Sha256};

use crate::model::{Clock, EndpointKey, Live};
use crate::store::{Result, Store};

/// A daemon that was silent for so long is dead: its claims and lanes go to the others.
pub const ALIVE: Duration = Duration::from_secs(10);

/// How often a daemon sends its heartbeat.
pub const BEAT: Duration = Duration::from_secs(2);

/// Heartbeats of daemons that died are kept so long for the operator to see.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// One run of one daemon among the others.
#[derive(Clone)]
pub struct Cluster {
    store: Store,
    clock: Clock,
    me: Arc<str>,
    host: Arc<str>,
    view: Live<Vec<String>>,
}

impl Cluster {
    /// A new run of a daemon on `host`, with a name of its own.
    pub fn new(store: Store, clock: Clock, host: &str) -> Self {
        let me: Arc<str> = format!("{:012x}", fastrand::u64(..) >> 16).into();
        Self {
            store,
            clock,
            host: host.into(),
            view: Live::new(vec![me.to_string()]),
            me,
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
    pub fn live(&self) -> Arc<Vec<String>> {
        self.view.get()
    }

    /// Sends a heartbeat, corrects the clock by the database's, and looks who else is alive.
    ///
    /// # Errors
    /// MongoDB is away.
    pub async fn beat(&self) -> Result<()> {
        let sent = Clock::local();
        let set = doc! {
            "host": &*self.host,
            "pid": i64::from(std::process::id()),
            "version": env!("CARGO_PKG_VERSION"),
            "startedAt": { "$ifNull": ["$startedAt", "$$NOW"] },
            "seenAt": "$$NOW",
        };
        let state = self.store.state();
        let beat = state.find_one_and_update(doc! { "_id": self.document() }, vec![doc! { "$set": set }]);
        let written = beat.upsert(true).return_document(ReturnDocument::After).await?;
        let now = written.and_then(|document| document.get_datetime("seenAt").ok().copied());
        let Some(now) = now else { return Ok(()) };
        self.clock.correct(sent, now);
        self.view.set(self.look(now).await?);
        Ok(())
    }

    async fn look(&self, now: DateTime) -> Result<Vec<String>> {
        let since = DateTime::from_millis(now.timestamp_millis() - ALIVE.as_millis() as i64);
        let filter = doc! { "_id": { "$gte": "daemon/", "$lt": "daemon0" }, "seenAt": { "$gt": since } };
        let daemons: Vec<Document> = self
            .store
            .state()
            .find(filter)
            .sort(doc! { "_id": 1 })
            .await?
            .try_collect()
            .await?;
        let name = |daemon: &Document| daemon.get_str("_id").ok()?.strip_prefix("daemon/").map(str::to_owned);
        Ok(daemons.iter().filter_map(name).collect())
    }

    /// Leaves: the others take over at once. Forgets daemons that died long ago.
    ///
    /// # Errors
    /// MongoDB is away; the others then wait for [`ALIVE`].
    pub async fn leave(&self) -> Result<()> {
        let state = self.store.state();
        state.delete_one(doc! { "_id": self.document() }).await?;
        let long_ago = DateTime::from_millis(self.clock.now().timestamp_millis() - REMEMBERED.as_millis() as i64);
        let dead = doc! { "_id": { "$gte": "daemon/", "$lt": "daemon0" }, "seenAt": { "$lt": long_ago } };
        state.delete_many(dead).await?;
        Ok(())
    }

    /// Whether this daemon delivers to that endpoint: by rendezvous hashing over the daemons that live, so that a daemon
    /// that comes or goes moves only the lanes that are its own.
    pub fn owns(&self, endpoint: &EndpointKey) -> bool {
        let live = self.view.get();
        live.len() <= 1
            || live
                .iter()
                .max_by_key(|name| weight(name, endpoint))
                .is_none_or(|name| **name == *self.me)
    }

    fn document(&self) -> String {
        format!("daemon/{}", self.me)
    }
}

fn weight(daemon: &str, endpoint: &EndpointKey) -> [u8; 32] {
    Sha256::new()
        .chain_update(daemon)
        .chain_update([0])
        .chain_update(endpoint.as_str())
        .finalize()
        .into()
}
