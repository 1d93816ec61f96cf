//! The state of everything, as MongoDB knows it: for `certhookd status`, the metrics and the page.
//!
//! Nothing here reads the whole outbox: what waits and what is dead is counted by the keys of indexes, and what was sent is in the
//! statistics.

mod backlog;
mod cached;
mod days;
mod endpoints;
mod heads;
mod instances;
mod operations;
mod queues;
mod sources;

use std::time::Duration;

use bson::{DateTime, Document};
use mongodb::options::Hint;
use serde::{Serialize, Serializer};

use crate::model::EndpointKey;
use crate::operations::{Hold, Holds};
use crate::platform::{Directory, Found};
use crate::store::{Result, Store};

pub use backlog::{Backlog, backlog, dead_letters, pending};
pub(crate) use cached::Cached;
pub use days::Day;
pub(crate) use days::days;
pub use endpoints::{DAYS, Endpoint};
pub(crate) use endpoints::{Known, describe, suspended};
pub use heads::{Head, NEXT};
pub use instances::Instance;
pub use operations::Operation;
pub use sources::{Find, Scan, Stream};

/// The state of everything.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// When it was asked, by the database's clock.
    #[serde(serialize_with = "rfc3339")]
    pub at: DateTime,
    /// Those that are alive, and those that died lately.
    pub instances: Vec<Instance>,
    /// Whose deliveries wait because somebody said so.
    pub holds: Vec<Hold>,
    /// What operators and the back office asked for last, the latest first.
    pub operations: Vec<Operation>,
    /// The outbox in numbers.
    pub outbox: Backlog,
    /// Every endpoint that is configured or was sent something lately.
    pub endpoints: Vec<Endpoint>,
    /// The latest dead letter of each endpoint that has some.
    pub dead_letters: Vec<Head>,
    /// The next delivery of each endpoint that has some pending: the first [`NEXT`] of them.
    pub next: Vec<Head>,
    /// The last scan of any instance.
    pub last_scan: Option<Scan>,
    /// The change stream's position.
    pub stream: Option<Stream>,
}

/// Reads it from MongoDB; which endpoints there are is taken from `directory`. `redrive_for` is the setting of that name.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn gather(store: &Store, directory: &Directory, redrive_for: Duration) -> Result<Status> {
    let at = store.database_time().await?;
    let holds = Holds::default();
    holds.load(store).await?;
    let firsts = queues::firsts(store).await?;
    let waiting = queues::waiting(store).await?;
    let dead_letters = heads::dead(
        store,
        directory,
        &heads::Redrive {
            redrive_for,
            holds: &holds,
            now: at,
        },
    )
    .await?;
    let outbox = Backlog {
        pending: waiting.values().sum(),
        dead: dead_letters.iter().map(|head| head.count).sum(),
        oldest: queues::oldest(store, directory, &firsts, at).await?,
    };
    Ok(Status {
        at,
        instances: instances::instances(store, at).await?,
        holds: holds.lasting(at),
        operations: operations::last(store).await?,
        outbox,
        endpoints: endpoints::endpoints(
            store,
            &endpoints::Known {
                directory,
                holds,
                suspended: endpoints::suspended(store).await?,
                at,
            },
            &dead_letters,
            &waiting,
        )
        .await?,
        next: heads::next(store, directory, firsts, &waiting).await?,
        dead_letters,
        last_scan: sources::last_scan(store).await?,
        stream: sources::stream(store).await?,
    })
}

/// What the directory knows of an endpoint, if it knows it. It counts others as out of service, because their documents may be on
/// their way.
pub(crate) fn find(directory: &Directory, endpoint: &EndpointKey) -> Option<Found> {
    let is_known = endpoint.is_own() || directory.knows(endpoint);
    is_known.then(|| directory.find(endpoint))
}

/// Has a query use the index of that name.
fn hint(index: &str) -> Hint {
    Hint::Name(index.into())
}

fn text(document: &Document, field: &str) -> String {
    document.get_str(field).unwrap_or_default().to_owned()
}

fn number(document: &Document, field: &str) -> i64 {
    let number = document
        .get_i64(field)
        .or_else(|_| document.get_i32(field).map(i64::from));
    number.unwrap_or(0)
}

fn instant(document: &Document, field: &str) -> Option<DateTime> {
    document.get_datetime(field).ok().copied()
}

pub(crate) fn rfc3339<S: Serializer>(at: &DateTime, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.try_to_rfc3339_string().unwrap_or_default())
}

pub(crate) fn rfc3339_if_known<S: Serializer>(
    at: &Option<DateTime>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

fn whole_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs()).serialize(serializer)
}
