//! Watching deliveries from outside: each change of a delivery, from a change stream.

mod change;

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::options::FullDocumentType;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::model::EventType;
use crate::store::{Backoff, Error, Result, Store, loses_token};

pub use change::Change;

/// How long the server waits for a change before it says that there is none: this long a stop may take.
const WAIT: Duration = Duration::from_millis(500);

/// What an update may change that says nothing about deliveries and may be long.
const LONG: [&str; 2] = [
    "updateDescription.updatedFields.deliveries",
    "updateDescription.updatedFields.history",
];

/// Which deliveries to watch. What is left out is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// An endpoint, as `ORGANIZATION/ENDPOINT` or its second part alone.
    pub endpoint: Option<String>,
    /// An organization.
    pub organization: Option<String>,
    /// A type of event.
    pub event_type: Option<EventType>,
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
    /// MongoDB is unavailable, is no replica set, or refuses.
    pub async fn open(store: Store, wanted: Wanted) -> Result<Self> {
        let stream = open(&store, &wanted, None).await?;
        Ok(Self { store, wanted, stream })
    }

    /// Sends each change until `stop`, or until nobody listens; through every outage, after which it goes on where it was.
    pub async fn run(mut self, changes: mpsc::Sender<Change>, stop: CancellationToken) {
        let mut token = None;
        while !stop.is_cancelled() {
            // A driver future that is dropped can lose what was read: it is asked to its end, see `source::stream`.
            match self.stream.next_if_any().await {
                Ok(seen) if seen.is_some() || self.stream.is_alive() => {
                    let seen = seen.map(|seen| change::read(&seen)).unwrap_or_default();
                    for change in seen.into_iter().filter(|change| self.wanted.includes(change)) {
                        if changes.send(change).await.is_err() {
                            return;
                        }
                    }
                    token = self.stream.resume_token();
                    continue;
                }
                // Closed by the server, because the collection was dropped: nothing of it is left to go on with.
                Ok(_) => token = None,
                Err(error) => note(&error.into(), &mut token),
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

impl Wanted {
    /// Deliveries of one batch may be of several types.
    fn includes(&self, change: &Change) -> bool {
        self.event_type
            .is_none_or(|event_type| change.event_type == event_type.as_str())
    }
}

/// Says that the stream has broken, and whether it can go on where it was.
fn note(error: &Error, token: &mut Option<ResumeToken>) {
    if loses_token(error) {
        *token = None;
        warn!(%error, "the change stream can't go on; changes until it is opened again are not shown");
    } else {
        warn!(%error, "MongoDB is unavailable; deliveries are followed again once it is back");
    }
}

async fn open(store: &Store, wanted: &Wanted, after: Option<ResumeToken>) -> Result<ChangeStream<RawDocumentBuf>> {
    let outbox = store.outbox();
    let watch = outbox
        .watch()
        .pipeline(pipeline(wanted))
        // An update holds only what has changed: not which deliveries a batch holds, nor why a second failure like the first failed.
        .full_document(FullDocumentType::UpdateLookup)
        .max_await_time(WAIT);
    let watch = match after {
        Some(token) => watch.resume_after(token),
        None => watch,
    };
    Ok(watch.await?.with_type())
}

/// Matches on ids and on what was updated alone: the document as it was looked up is for reading.
fn pipeline(wanted: &Wanted) -> [Document; 3] {
    // A result changes `open`, a failed attempt of a retry does not.
    let relevant = ["state", "open", "lastAttemptAt"]
        .map(|field| doc! { format!("updateDescription.updatedFields.{field}"): { "$exists": true } });
    let relevant = doc! { "operationType": "update", "$or": &relevant[..] };
    let mut all = vec![doc! { "$or": [{ "operationType": { "$in": ["insert", "replace"] } }, relevant] }];
    // `ORGANIZATION/ENDPOINT/…`; `0` comes after `/`.
    let begins = |key: &str| doc! { "documentKey._id": { "$gte": format!("{key}/"), "$lt": format!("{key}0") } };
    all.extend(wanted.organization.as_deref().map(begins));
    all.extend(wanted.endpoint.as_deref().map(|endpoint| {
        let second = doc! { "$arrayElemAt": [{ "$split": ["$documentKey._id", "/"] }, 1] };
        match endpoint.contains('/') {
            true => begins(endpoint),
            false => doc! { "$expr": { "$eq": [second, { "$literal": endpoint }] } },
        }
    }));
    let document = doc! {
        "state": 1, "type": 1, "attempts": 1, "lastAttemptAt": 1, "lastStatus": 1, "lastError": 1, "reason": 1, "redriven": 1,
        "results": 1, "deliveries": { "event": 1, "type": 1 },
    };
    let shown = doc! {
        "operationType": 1, "documentKey": 1, "wallTime": 1, "updateDescription.updatedFields": 1, "fullDocument": document,
    };
    [
        doc! { "$match": { "$and": all } },
        doc! { "$project": shown },
        doc! { "$unset": &LONG[..] },
    ]
}
