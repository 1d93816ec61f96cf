//! Watching deliveries from outside: each change of a delivery's state, as a change stream tells it.

use std::time::Duration;

use bson::{DateTime, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::error::Error;
use mongodb::options::FullDocumentType;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::model::EventType;
use crate::store::{Backoff, Result, Store, loses_token, reason};

/// How long the server waits for a change before it answers that there is none: so long may a stop take.
const WAIT: Duration = Duration::from_millis(500);

/// What is said of a delivery.
const FIELDS: [&str; 7] = [
    "state",
    "eventType",
    "attempts",
    "lastAttemptAt",
    "lastStatus",
    "lastError",
    "reason",
];

/// Which deliveries to watch. What is left out is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// An endpoint, as `OWNER/ENDPOINT` or its second part alone.
    pub endpoint: Option<String>,
    /// An organization.
    pub owner: Option<String>,
    /// A type of event.
    pub event_type: Option<EventType>,
}

/// A delivery has come into a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, by the database's clock.
    pub at: DateTime,
    /// The state: `pending`, `claimed`, `delivered`, `dead`, `cancelled`; or `rejected` for a certificate that is no event.
    pub state: String,
    /// The type of event.
    pub event_type: String,
    /// The organization; empty for what is rejected.
    pub owner: String,
    /// The endpoint; empty for what is rejected.
    pub endpoint: String,
    /// Attempts so far. After an outage it may be ahead of the change, as may be status and reason.
    pub attempt: i32,
    /// The last answer's status, where an attempt has just got one.
    pub status: Option<i32>,
    /// Why it is in that state, where that is not plain.
    pub reason: Option<String>,
    /// The event's id.
    pub webhook_id: String,
}

/// An open stream of changes.
pub struct Follower {
    store: Store,
    wanted: Wanted,
    stream: ChangeStream<RawDocumentBuf>,
}

impl Follower {
    /// Watches from now on.
    ///
    /// # Errors
    /// MongoDB is away, is no replica set, or refuses.
    pub async fn open(store: Store, wanted: Wanted) -> Result<Self> {
        let stream = open(&store, &wanted, None).await?;
        Ok(Self { store, wanted, stream })
    }

    /// Sends each change until `stop`, or until nobody listens; through every outage, after which it goes on where it was.
    pub async fn run(mut self, changes: mpsc::Sender<Change>, stop: CancellationToken) {
        let mut token = None;
        while !stop.is_cancelled() {
            // A driver future that is dropped can lose an answer: it is asked to its end, see `source::stream`.
            match self.stream.next_if_any().await {
                Ok(change) if change.is_some() || self.stream.is_alive() => {
                    let change = change.as_deref().and_then(decode);
                    if let Some(change) = change
                        && changes.send(change).await.is_err()
                    {
                        return;
                    }
                    token = self.stream.resume_token();
                    continue;
                }
                // Closed by the server, because the collection was dropped: nothing of it is left to go on with.
                Ok(_) => token = None,
                Err(error) => note(&error, &mut token),
            }
            if self.reopen(token.take(), &stop).await.is_none() {
                return;
            }
        }
    }

    /// Opens the stream anew, however long it takes; `None` if `stop` comes first.
    async fn reopen(&mut self, mut token: Option<ResumeToken>, stop: &CancellationToken) -> Option<()> {
        let mut backoff = Backoff::default();
        loop {
            stop.run_until_cancelled(backoff.wait()).await?;
            match open(&self.store, &self.wanted, token.clone()).await {
                Ok(stream) => {
                    info!("following deliveries again");
                    self.stream = stream;
                    return Some(());
                }
                Err(error) if token.is_some() && loses_token(&error) => note(&error, &mut token),
                Err(_) => {}
            }
        }
    }
}

/// Says that the stream has broken, and whether it can go on where it was.
fn note(error: &Error, token: &mut Option<ResumeToken>) {
    if loses_token(error) {
        *token = None;
        warn!(error = %reason(error), "the change stream can't go on; what happens until it is opened anew is not told");
    } else {
        warn!(error = %reason(error), "MongoDB is away; deliveries are followed again once it is back");
    }
}

async fn open(store: &Store, wanted: &Wanted, after: Option<ResumeToken>) -> Result<ChangeStream<RawDocumentBuf>> {
    let deliveries = store.deliveries();
    let watch = deliveries
        .watch()
        .pipeline(pipeline(wanted))
        // An update tells what has changed only: a second failure like the first would have no reason.
        .full_document(FullDocumentType::UpdateLookup)
        .max_await_time(WAIT);
    let watch = match after {
        Some(token) => watch.resume_after(token),
        None => watch,
    };
    Ok(watch.await?.with_type())
}

/// Matches on ids and on what was updated alone: the document as it was looked up is for reading.
fn pipeline(wanted: &Wanted) -> [Document; 2] {
    let moved = doc! { "operationType": "update", "updateDescription.updatedFields.state": { "$exists": true } };
    let mut all = vec![doc! { "$or": [{ "operationType": "insert" }, moved] }];
    // `EVENT/OWNER/ENDPOINT`
    let part = |place: i32, value: &str| {
        let part = doc! { "$arrayElemAt": [{ "$split": ["$documentKey._id", "/"] }, place] };
        doc! { "$expr": { "$eq": [part, { "$literal": value }] } }
    };
    if let Some(owner) = &wanted.owner {
        all.push(part(1, owner));
    }
    match wanted.endpoint.as_ref().map(|endpoint| endpoint.split_once('/')) {
        Some(Some((owner, endpoint))) => all.extend([part(1, owner), part(2, endpoint)]),
        Some(None) => all.extend(wanted.endpoint.as_ref().map(|endpoint| part(2, endpoint))),
        None => {}
    }
    if let Some(event_type) = wanted.event_type {
        all.push(doc! { "documentKey._id": { "$regex": format!("^(rejected/)?{event_type}_") } });
    }
    let mut shown = doc! { "operationType": 1, "documentKey": 1, "wallTime": 1, "updateDescription.removedFields": 1 };
    for field in FIELDS {
        shown.insert(format!("fullDocument.{field}"), 1);
        shown.insert(format!("updateDescription.updatedFields.{field}"), 1);
    }
    [doc! { "$match": { "$and": all } }, doc! { "$project": shown }]
}

/// `None` for what is no delivery of ours.
fn decode(change: &RawDocument) -> Option<Change> {
    let id = change.get_document("documentKey").ok()?.get_str("_id").ok()?;
    let update = change.get_document("updateDescription").ok();
    let updated = update.and_then(|update| update.get_document("updatedFields").ok());
    let document = Fields {
        updated,
        full: change.get_document("fullDocument").ok(),
    };
    let (event, key) = match id.split_once('/')? {
        ("rejected", event) => (event, ""),
        parts => parts,
    };
    let (owner, endpoint) = key.split_once('/').unwrap_or_default();
    let state = document.text("state")?;
    let attempted = updated.is_some_and(|updated| updated.get_datetime("lastAttemptAt").is_ok());
    Some(Change {
        at: change.get_datetime("wallTime").ok()?,
        event_type: document.text("eventType").unwrap_or_default(),
        owner: owner.to_owned(),
        endpoint: endpoint.to_owned(),
        attempt: document.number("attempts").unwrap_or(0),
        status: attempted.then(|| document.number("lastStatus")).flatten(),
        reason: why(&state, &document, attempted, update),
        webhook_id: event.to_owned(),
        state,
    })
}

fn why(state: &str, document: &Fields<'_>, attempted: bool, update: Option<&RawDocument>) -> Option<String> {
    let finished_before = || {
        let removed = update?.get_array("removedFields").ok()?;
        let mut names = removed.into_iter().flatten();
        names.find(|name| name.as_str() == Some("finishedAt"))
    };
    match state {
        "pending" if attempted => document.text("lastError"),
        "pending" if finished_before().is_some() => Some("to be sent again".into()),
        "pending" if update.is_some() => Some("released, nothing was attempted".into()),
        "dead" => {
            let (verdict, error) = (document.text("reason")?, document.text("lastError"));
            Some(error.map_or(verdict.clone(), |error| format!("{verdict}: {error}")))
        }
        "cancelled" | "rejected" => document.text("reason"),
        _ => None,
    }
}

/// A delivery: what was updated, and else what it is now.
struct Fields<'a> {
    updated: Option<&'a RawDocument>,
    full: Option<&'a RawDocument>,
}

impl Fields<'_> {
    fn text(&self, field: &str) -> Option<String> {
        self.find(|document| document.get_str(field).ok().map(str::to_owned))
    }

    fn number(&self, field: &str) -> Option<i32> {
        self.find(|document| document.get_i32(field).ok())
    }

    fn find<T>(&self, read: impl Fn(&RawDocument) -> Option<T>) -> Option<T> {
        self.updated.and_then(&read).or_else(|| self.full.and_then(&read))
    }
}
