//! Where the watch stands, kept in `webhook_state` as `watch`.

use std::time::Duration;

use bson::{Bson, DateTime, Document, Timestamp, doc};
use mongodb::change_stream::event::ResumeToken;
use tracing::{info, warn};

use super::process::Step;
use crate::kill_point;
use crate::source::stream::{Ending, Start};
use crate::store::{Result, Stopped, Store};

/// Where to go on.
#[derive(Debug)]
pub(super) struct Position {
    start: Start,
    /// When the stream last moved: what an accident would have to catch up from.
    at: DateTime,
    /// An accident happened: awards since then are to be found by query.
    pub(super) catch_up_from: Option<DateTime>,
    /// The lease under which it is written: one under a later lease is not overwritten.
    lease: i64,
    fenced: bool,
    saved: bool,
}

impl Position {
    /// Reads the position; a first start begins now. One that can't be read is as good as lost: what the outbox remembers of, for
    /// `retention`, is to be found by query.
    pub(super) async fn load(store: &Store, retention: Duration) -> std::result::Result<Self, Stopped> {
        let found = store
            .persist("read the stream's position", || async {
                store.state().find_one(doc! { "_id": "watch" }).await
            })
            .await?;
        if let Some(document) = found {
            return match parse(&document) {
                Some(position) => Ok(position),
                None => Self::mend(store, &document, retention).await,
            };
        }
        let (start, at) = now(store).await?;
        info!("no stream position yet: completions are watched from now on");
        let first = doc! { "$setOnInsert": fields(&start, at, None, 0) };
        let create = || async {
            store
                .state()
                .update_one(doc! { "_id": "watch" }, first.clone())
                .upsert(true)
                .await
        };
        store.persist("note the stream's start", create).await?;
        Ok(Self {
            start,
            at,
            catch_up_from: None,
            lease: 0,
            fenced: false,
            saved: true,
        })
    }

    async fn mend(store: &Store, document: &Document, retention: Duration) -> std::result::Result<Self, Stopped> {
        warn!("the stream's position can't be read; starting afresh, missed completions are found by query");
        let (start, at) = now(store).await?;
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let remembered = DateTime::from_millis(at.timestamp_millis().saturating_sub(retention));
        let mut mended = Self {
            start,
            at,
            catch_up_from: Some(document.get_datetime("at").copied().unwrap_or(remembered)),
            lease: document.get_i64("lease").unwrap_or(0),
            fenced: false,
            saved: false,
        };
        mended.save(store).await?;
        Ok(mended)
    }

    /// The same, written under this lease.
    pub(super) fn under(self, lease: i64) -> Self {
        Self { lease, ..self }
    }

    /// Whether a later lease has moved the position: then this one is nobody's business any more.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced
    }

    pub(super) fn start(&self) -> Start {
        self.start.clone()
    }

    /// When the stream last moved.
    pub(super) fn at(&self) -> DateTime {
        self.at
    }

    /// Moves on, in memory, after the group is in the outbox.
    pub(super) fn advance(&mut self, step: &Step) {
        if let Some(start) = &step.reached {
            self.start = start.clone();
            self.at = step.at.unwrap_or(self.at).max(self.at);
            self.saved = false;
        }
        if matches!(step.ending, Some(Ending::Invalidated)) {
            self.missed();
        }
    }

    /// Awards since the stream last moved are to be found by query.
    fn missed(&mut self) {
        self.catch_up_from.get_or_insert(self.at);
        self.saved = false;
    }

    /// The token is of no use: notes durably that from now on is watched, and until now is to be found by query.
    pub(super) async fn lose(&mut self, store: &Store) -> std::result::Result<(), Stopped> {
        let (start, at) = now(store).await?;
        self.missed();
        (self.start, self.at) = (start, at);
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
        let document = fields(&self.start, self.at, self.catch_up_from, self.lease);
        let mine = doc! { "_id": "watch", "lease": { "$not": { "$gt": self.lease } } };
        kill_point::reach("token-to-be-saved");
        let write = || async { store.state().replace_one(mine.clone(), document.clone()).await };
        self.fenced = store.persist("save the stream's position", write).await?.matched_count == 0;
        kill_point::reach("token-saved");
        self.saved = true;
        Ok(())
    }
}

fn fields(start: &Start, at: DateTime, catch_up_from: Option<DateTime>, lease: i64) -> Document {
    let (kind, value) = match start {
        Start::Token(token) => ("token", bson(token)),
        Start::After(token) => ("after", bson(token)),
        Start::At(time) => ("time", Bson::Timestamp(*time)),
    };
    let mut fields = doc! { kind: value, "at": at, "lease": lease };
    if let Some(since) = catch_up_from {
        fields.insert("catchUpFrom", since);
    }
    fields
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
        lease: 0,
        fenced: false,
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
