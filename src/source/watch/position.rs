//! How far the change stream was read, kept in `webhook_state` as `watch`.

use std::time::Duration;

use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use mongodb::change_stream::event::ResumeToken;
use tracing::{info, warn};

use crate::model::{EventType, earlier};
use crate::source::stream::Start;
use crate::store::{Error, LEASE, Result, STATE, Stopped, Store, Transaction, upsert_row};

/// The `_id` of the position in `webhook_state`.
const POSITION: &str = "watch";

/// Where to go on.
#[derive(Clone, Debug)]
pub(super) struct Position {
    start: Start,
    /// When the stream last moved: what an accident would have to catch up from.
    at: DateTime,
    /// An accident happened: awards since then must be found by query.
    pub(super) catch_up_from: Option<DateTime>,
    /// The number of the lease under which it is written: one that was written under a later lease is not overwritten.
    lease: i64,
    /// How many accidents there were since it was read: a query that began before the last one does not make up for that.
    accidents: u32,
}

/// Where the stream goes on after a change, and when that happened.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) start: Option<Start>,
    pub(super) at: Option<DateTime>,
}

/// A position that could not be saved.
#[derive(Debug)]
pub(super) enum Unsaved {
    /// A later lease has moved it: finding events is another instance's.
    Superseded,
    /// MongoDB refused or is unavailable.
    Failed(Error),
}

impl From<Error> for Unsaved {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Position {
    /// Reads the position and writes the lease's number on it, so that an instance with an earlier one no longer moves it;
    /// `None` if a later lease has done so. A first start begins now. A position that is lost or can't be read has what the
    /// outbox remembers, for `retention`, found by query.
    pub(super) async fn load(
        store: &Store,
        lease: i64,
        retention: Duration,
    ) -> std::result::Result<Option<Self>, Stopped> {
        let take_over = || async {
            let update = doc! { "$set": { "lease": lease } };
            Ok(store.state().find_one_and_update(not_later(lease), update).await?)
        };
        let correct = || correct_lease(store, lease);
        store
            .persist("compare the stream's position with the lease", correct)
            .await?;
        let found = store.persist("read the stream's position", take_over).await?;
        if let Some(position) = found.as_ref().and_then(|document| parse(document, lease)) {
            return Ok(Some(position));
        }
        let position = Self::afresh(store, lease, found.as_ref(), retention).await?;
        if !position.create(store).await? {
            return Ok(None);
        }
        if position.catch_up_from.is_some() {
            warn!(
                "the stream's position is lost or can't be read; starting afresh, missed completions are found by query"
            );
        } else {
            info!("no stream position yet: completions are watched from now on");
        }
        Ok(Some(position))
    }

    /// A position from now on, where there is none that can be read.
    async fn afresh(
        store: &Store,
        lease: i64,
        found: Option<&Document>,
        retention: Duration,
    ) -> std::result::Result<Self, Stopped> {
        let has_watched = store.persist("look for earlier awards", || has_watched(store)).await?;
        let (start, at) = now(store).await?;
        let known = found.and_then(|document| document.get_datetime("at").ok().copied());
        let is_lost = found.is_some() || has_watched;
        let catch_up_from = is_lost.then(|| known.unwrap_or_else(|| earlier(at, retention)));
        Ok(Self {
            start,
            at,
            catch_up_from,
            lease,
            accidents: 0,
        })
    }

    /// Saves the first position; `false` if a later lease has saved one.
    async fn create(&self, store: &Store) -> std::result::Result<bool, Stopped> {
        let create = || async {
            match self.write(store).await {
                Ok(_) => {}
                Err(Unsaved::Superseded) => return Ok(false),
                Err(Unsaved::Failed(error)) => return Err(error),
            }
            // The first start stays: what was awarded before that is not told of.
            let watched = doc! { "$set": { "watched": true }, "$min": { "watchedSince": self.at } };
            store
                .state()
                .update_one(doc! { "_id": LEASE }, watched)
                .upsert(true)
                .await?;
            Ok(true)
        };
        store.persist("note the stream's start", create).await
    }

    pub(super) fn start(&self) -> Start {
        self.start.clone()
    }

    /// When the stream last moved.
    pub(super) fn at(&self) -> DateTime {
        self.at
    }

    #[must_use]
    pub(super) fn moved(&self, to: &Move) -> Self {
        let mut moved = self.clone();
        if let Some(start) = &to.start {
            moved.start = start.clone();
            moved.at = to.at.unwrap_or(self.at).max(self.at);
        }
        moved
    }

    /// Awards since the stream last moved must be found by query.
    pub(super) fn miss(&mut self) {
        self.catch_up_from.get_or_insert(self.at);
        self.accidents += 1;
    }

    pub(super) fn accidents(&self) -> u32 {
        self.accidents
    }

    /// The token is of no use: from now on is watched, and until now must be found by query.
    pub(super) async fn lose(&mut self, store: &Store) -> std::result::Result<(), Stopped> {
        let (start, at) = now(store).await?;
        self.miss();
        (self.start, self.at) = (after(start), at);
        Ok(())
    }

    /// Writes the position as a part of a transaction.
    ///
    /// # Errors
    /// See [`Unsaved`]; the transaction is spoiled.
    pub(super) async fn save_in_transaction(&self, transaction: &mut Transaction) -> std::result::Result<(), Unsaved> {
        let row = upsert_row(raw(&not_later(self.lease))?, raw(&self.update())?);
        let reply = transaction.update(STATE, [row].iter()).await;
        warn_if(reply.map_err(superseded)?.inserted > 0);
        Ok(())
    }

    /// Makes sure, as a part of a transaction, that no later lease has moved the position.
    ///
    /// # Errors
    /// See [`Unsaved`]; the transaction is spoiled.
    pub(super) async fn check_in_transaction(&self, transaction: &mut Transaction) -> std::result::Result<(), Unsaved> {
        // A write, so that one that moves it at the same time is in conflict with this. One that was deleted is there again, without
        // a start, until the stream saves it.
        let row = upsert_row(
            raw(&not_later(self.lease))?,
            rawdoc! { "$set": { "step": fastrand::i64(..) } },
        );
        let reply = transaction.update(STATE, [row].iter()).await;
        warn_if(reply.map_err(superseded)?.inserted > 0);
        Ok(())
    }

    /// Writes the position by itself.
    ///
    /// # Errors
    /// See [`Unsaved`].
    pub(super) async fn save(&self, store: &Store) -> std::result::Result<(), Unsaved> {
        warn_if(self.write(store).await?);
        Ok(())
    }

    /// Returns whether there was none.
    async fn write(&self, store: &Store) -> std::result::Result<bool, Unsaved> {
        let state = store.state();
        let write = state.update_one(not_later(self.lease), self.update()).upsert(true);
        let written = write.await.map_err(|error| superseded(error.into()))?;
        Ok(written.upserted_id.is_some())
    }

    fn update(&self) -> Document {
        let (kind, value) = match &self.start {
            Start::Token(token) => ("token", bson(token)),
            Start::After(token) => ("after", bson(token)),
            Start::At(time) => ("time", Bson::Timestamp(*time)),
        };
        let mut set = doc! { kind: value, "at": self.at, "lease": self.lease };
        if let Some(since) = self.catch_up_from {
            set.insert("catchUpFrom", since);
        }
        let mut unset = Document::new();
        for name in ["token", "after", "time", "catchUpFrom"] {
            if !set.contains_key(name) {
                unset.insert(name, 1);
            }
        }
        doc! { "$set": set, "$unset": unset }
    }
}

/// A position of a later lease doesn't match, and to insert another meets its `_id`; one that was deleted is written anew.
fn not_later(lease: i64) -> Document {
    doc! { "_id": POSITION, "lease": { "$not": { "$gt": lease } } }
}

/// Replaces a number on the position that no lease has had yet: nobody could move it any more.
async fn correct_lease(store: &Store, lease: i64) -> Result<()> {
    let state = store.state();
    let later = doc! { "_id": POSITION, "lease": { "$gt": lease } };
    let Some(position) = state.find_one(later).await? else {
        return Ok(());
    };
    // Read after it: the instance that wrote the number on the position had got the lease before.
    let present = state.find_one(doc! { "_id": LEASE, "number": lease }).await?;
    if present.is_some() {
        let written = doc! { "_id": POSITION, "lease": position.get("lease") };
        state.update_one(written, doc! { "$set": { "lease": lease } }).await?;
        warn!(
            "somebody else writes to webhook_state: the stream's position had a number that no lease has had; it was replaced, and watching goes on"
        );
    }
    Ok(())
}

/// A position that is saved was there before: an instance that finds none begins by creating one.
fn warn_if(is_new: bool) {
    if is_new {
        warn!("the stream's position was deleted from webhook_state: it is written anew, no award is lost");
    }
}

fn raw(document: &Document) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(document).map_err(|error| mongodb::error::Error::custom(error).into())
}

fn superseded(error: Error) -> Unsaved {
    if error.is_duplicate() {
        Unsaved::Superseded
    } else {
        Unsaved::Failed(error)
    }
}

fn bson(token: &ResumeToken) -> Bson {
    bson::serialize_to_bson(token).unwrap_or(Bson::Null)
}

fn parse(document: &Document, lease: i64) -> Option<Position> {
    let token = |name: &str| bson::deserialize_from_bson(document.get(name)?.clone()).ok();
    let start = token("token")
        .map(Start::Token)
        .or_else(|| token("after").map(Start::After))
        .or_else(|| document.get_timestamp("time").ok().map(Start::At))?;
    Some(Position {
        start,
        at: document.get_datetime("at").ok().copied()?,
        catch_up_from: document.get_datetime("catchUpFrom").ok().copied(),
        lease,
        accidents: 0,
    })
}

/// Whether anybody has watched before: the lease says so, or awards in the outbox do where that was deleted too.
async fn has_watched(store: &Store) -> Result<bool> {
    let lease = store.state().find_one(doc! { "_id": LEASE }).await?;
    if lease.is_some_and(|lease| lease.get_bool("watched").unwrap_or(false)) {
        return Ok(true);
    }
    let is_award = format!("^{}_", EventType::CertificateCompleted.as_str());
    let outbox = store.outbox();
    let award = outbox.find_one(doc! { "deliveries.event": { "$regex": is_award } });
    Ok(award.projection(doc! { "_id": 1 }).await?.is_some())
}

/// The cluster's time.
async fn now(store: &Store) -> std::result::Result<(Start, DateTime), Stopped> {
    store.persist("ask for the cluster's time", || read_now(store)).await
}

/// Not at that time of the cluster, but after it: on a quiet server it is that of the very change that ended the stream. What else
/// happened then is found by query.
fn after(start: Start) -> Start {
    match start {
        Start::At(time) => Start::At(Timestamp {
            increment: time.increment.saturating_add(1),
            ..time
        }),
        other => other,
    }
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
