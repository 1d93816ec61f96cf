//! The change stream itself: opened, read and classified in a task of its own.
//!
//! A driver future that is dropped can lose a reply (RUST-937): a call of `next_if_any` is dropped only together with its stream.

use std::time::Duration;

use bson::{DateTime, RawDocumentBuf, Timestamp, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::options::FullDocumentType;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::Clock;
use crate::store::{Error, Result, Store, loses_token};

/// How long the server waits for a change before it says that there is none, and so how old the token of a quiet stream gets
/// (`certhookd_stream_token_age_seconds`).
const WAIT: Duration = Duration::from_secs(5);

/// What a change says of the fields that matter here.
const CREATION_DATE: &str = "updateDescription.updatedFields.creationDate";
const EXPIRES: &str = "updateDescription.updatedFields.expires";

/// Where a stream begins.
#[derive(Clone, Debug)]
pub(super) enum Start {
    /// After the last event that was processed.
    Token(ResumeToken),
    /// After the event that ended the stream before.
    After(ResumeToken),
    /// At a time of the cluster.
    At(Timestamp),
}

/// What comes out of a stream.
#[derive(Debug)]
pub(super) enum Item {
    /// The stream is open.
    Open,
    /// A change, as raw as it came: a typed event that fails to decode would have moved the token already.
    Change(RawDocumentBuf),
    /// Nothing more happened up to this token.
    Idle {
        token: ResumeToken,
        /// When it was asked for.
        at: DateTime,
    },
    /// The stream ended.
    Ended(Ending),
}

/// Why a stream ended. Each kind is treated in its own way: treated alike, some would repeat for ever.
#[derive(Debug)]
pub(super) enum Ending {
    /// The daemon stops.
    Stopped,
    /// The network, a failover: opened anew with the same token.
    Broken(Error),
    /// The collection was dropped or renamed, or another one was renamed to its name: opened anew after that, and caught up
    /// by query, because what came in by renaming was never inserted.
    Invalidated,
    /// The token is of no use any more, or the event after it can't be read: opened anew from now, and caught up by query.
    Lost(Error),
}

/// Opens a stream and sends what it yields, until it ends; the last item is the ending.
pub(super) async fn follow(
    store: Store,
    clock: Clock,
    start: Start,
    items: mpsc::Sender<Item>,
    stop: CancellationToken,
) {
    let ending = match open(&store, start).await {
        Ok(stream) => {
            let _ = items.send(Item::Open).await;
            pump(stream, &clock, &items, &stop).await
        }
        Err(error) => classify(error),
    };
    let _ = items.send(Item::Ended(ending)).await;
}

async fn open(store: &Store, start: Start) -> Result<ChangeStream<RawDocumentBuf>> {
    let collection = store.badge_users();
    // How the document was after an update only a collection that keeps post-images knows.
    let watch = collection
        .watch()
        .pipeline(pipeline())
        .full_document(FullDocumentType::WhenAvailable)
        .max_await_time(WAIT);
    let watch = match start {
        Start::Token(token) => watch.resume_after(token),
        Start::After(token) => watch.start_after(token),
        Start::At(time) => watch.start_at_operation_time(time),
    };
    Ok(watch.await?.with_type())
}

/// Awards, awards made again, changed expiries, and what ends a stream. Our own marks change other fields and stay outside.
fn pipeline() -> [bson::Document; 2] {
    let always = ["insert", "replace", "drop", "rename", "dropDatabase", "invalidate"];
    let update = |field| doc! { "operationType": "update", field: { "$exists": true } };
    let (again, renewed) = (update(CREATION_DATE), update(EXPIRES));
    [
        doc! { "$match": { "$or": [{ "operationType": { "$in": always } }, again, renewed] } },
        doc! { "$project": {
            "operationType": 1, "documentKey": 1, "fullDocument": 1, "clusterTime": 1, CREATION_DATE: 1, EXPIRES: 1,
        } },
    ]
}

async fn pump(
    mut stream: ChangeStream<RawDocumentBuf>,
    clock: &Clock,
    items: &mpsc::Sender<Item>,
    stop: &CancellationToken,
) -> Ending {
    loop {
        let at = clock.now();
        let Some(next) = stop.run_until_cancelled(stream.next_if_any()).await else {
            return Ending::Stopped;
        };
        let item = match next {
            Ok(Some(change)) => Item::Change(change),
            // The server closes the stream after an invalidation. Its token must not count as one of idleness.
            Ok(None) if !stream.is_alive() => return Ending::Invalidated,
            Ok(None) => match stream.resume_token() {
                Some(token) => Item::Idle { token, at },
                None => continue,
            },
            Err(error) => return classify(error.into()),
        };
        if items.send(item).await.is_err() {
            return Ending::Stopped;
        }
    }
}

fn classify(error: Error) -> Ending {
    if loses_token(&error) {
        Ending::Lost(error)
    } else {
        Ending::Broken(error)
    }
}
