//! Where the watch stands, kept in `webhook_state` as `watch`.

use bson::{Bson, DateTime, Document, Timestamp, doc};
use mongodb::change_stream::event::ResumeToken;
use tracing::info;

use super::process::Step;
use crate::source::stream::Start;
use crate::store::{Result, Stopped, Store};

/// Where to go on.
#[derive(Debug)]
pub(super) struct Position {
    start: Start,
    /// When the stream last moved: what an accident would have to catch up from.
    at: DateTime,
    /// An accident happened: awards since then are to be found by query.
    pub(super) catch_up_from: Option<DateTime>,
    saved: bool,
}

impl Position {
    /// Reads the position; a first start begins now.
    pub(super) async fn load(store: &Store) -> std::result::Result<Self, Stopped> {
        let found = store
            .persist("read the stream's position", || async {
                store.state().find_one(doc! { "_id": "watch" }).await
            })
            .await?;
        if let Some(position) = found.and_then(|document| parse(&document)) {
            return Ok(position);
        }
        let (start, at) = now(store).await?;
        info!("no stream position yet: completions are watched from now on");
        let mut position = Self {
            start,
            at,
            catch_up_from: None,
            saved: false,
        };
        position.save(store).await?;
        Ok(position)
    }

    pub(super) fn start(&self) -> Start {
        self.start.clone()
    }

    /// Moves on, in memory, after the group is in the outbox.
    pub(super) fn advance(&mut self, step: &Step) {
        let Some(start) = &step.reached else { return };
        self.start = start.clone();
        self.at = step.at.unwrap_or(self.at).max(self.at);
        self.saved = false;
    }

    /// The token is of no use: notes durably that from now on is watched, and until now is to be found by query.
    pub(super) async fn lose(&mut self, store: &Store) -> std::result::Result<(), Stopped> {
        let (start, at) = now(store).await?;
        self.catch_up_from = Some(self.catch_up_from.unwrap_or(self.at));
        (self.start, self.at, self.saved) = (start, at, false);
        self.save(store).await
    }

    /// Nothing is left to be found by query.
    pub(super) async fn caught_up(&mut self, store: &Store) -> std::result::Result<(), Stopped> {
        self.catch_up_from = None;
        self.saved = false;
        self.save(store).await
    }

    /// Writes the position, unless it stands as it was written.
    pub(super) async fn save(&mut self, store: &Store) -> std::result::Result<(), Stopped> {
        if self.saved {
            return Ok(());
        }
        let document = self.document();
        store
            .persist("save the stream's position", || async {
                store
                    .state()
                    .replace_one(doc! { "_id": "watch" }, document.clone())
                    .upsert(true)
                    .await
            })
            .await?;
        self.saved = true;
        Ok(())
    }

    fn document(&self) -> Document {
        let (kind, value) = match &self.start {
            Start::Token(token) => ("token", bson(token)),
            Start::After(token) => ("after", bson(token)),
            Start::At(time) => ("time", Bson::Timestamp(*time)),
        };
        let mut document = doc! { "_id": "watch", kind: value, "at": self.at };
        if let Some(since) = self.catch_up_from {
            document.insert("catchUpFrom", since);
        }
        document
    }
}

fn bson(token: &ResumeToken) -> Bson {
    bson::serialize_to_bson(token).unwrap_or(Bson::Null)
}

fn parse(document: &Document) -> Option<Position> {
    let token = |name: &str| bson::deserialize_from_bson(document.get(name)?.clone()).ok();
    let start = token("token")
        .map(Start::Token)
        .or_else(|| token("after").map(Start::After))
        .or_else(|| document.get_timestamp("time").ok().map(Start::At))?;
    Some(Position {
        start,
        at: document.get_datetime("at").ok().copied()?,
        catch_up_from: document.get_datetime("catchUpFrom").ok().copied(),
        saved: true,
    })
}

/// The cluster's time.
async fn now(store: &Store) -> std::result::Result<(Start, DateTime), Stopped> {
    store.persist("ask for the cluster's time", || read_now(store)).await
}

async fn read_now(store: &Store) -> Result<(Start, DateTime)> {
    let hello = store.hello().await?;
    let time = hello
        .get_timestamp("operationTime")
        .unwrap_or(Timestamp { time: 0, increment: 0 });
    let at = hello
        .get_datetime("localTime")
        .copied()
        .unwrap_or(DateTime::from_millis(i64::from(time.time) * 1000));
    Ok((Start::At(time), at))
}
