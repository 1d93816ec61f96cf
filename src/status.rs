//! How it stands, as MongoDB knows it: for `certhookd status`, the metrics and the page.
//!
//! Nothing here reads the whole outbox: what waits and what is dead is counted by indexes, what was sent stands in the statistics.

mod backlog;
mod cached;
mod daemons;
mod endpoints;
mod heads;
mod sources;

use std::time::Duration;

use bson::{DateTime, Document};
use serde::{Serialize, Serializer};

use crate::platform::Directory;
use crate::store::{Result, Store};

pub use backlog::{Backlog, backlog, count};
pub use cached::Cached;
pub use daemons::Daemon;
pub use endpoints::{DAYS, Endpoint};
pub use heads::Head;
pub use sources::{Scan, Stream};

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// When it was asked, by the database's clock.
    #[serde(serialize_with = "rfc3339")]
    pub at: DateTime,
    /// Those that live, and those that died lately.
    pub daemons: Vec<Daemon>,
    /// The outbox in numbers.
    pub outbox: Backlog,
    /// Every endpoint that is configured or was sent something lately.
    pub endpoints: Vec<Endpoint>,
    /// Of each endpoint with dead letters, the latest.
    pub dead_letters: Vec<Head>,
    /// Of each endpoint with pending deliveries, the next.
    pub next: Vec<Head>,
    /// The last scan of any daemon.
    pub last_scan: Option<Scan>,
    /// Where the change stream stands.
    pub stream: Option<Stream>,
}

/// Asks MongoDB; who the endpoints are is taken from `directory`.
///
/// # Errors
/// MongoDB is away.
pub async fn gather(store: &Store, directory: &Directory) -> Result<Status> {
    let hello = store.hello().await?;
    let at = *hello.get_datetime("localTime").map_err(mongodb::error::Error::custom)?;
    let (dead_letters, next) = (
        heads::dead(store, directory).await?,
        heads::pending(store, directory).await?,
    );
    Ok(Status {
        at,
        daemons: daemons::daemons(store, at).await?,
        outbox: backlog(store).await?,
        endpoints: endpoints::endpoints(store, directory, at, &dead_letters, &next).await?,
        dead_letters,
        next,
        last_scan: sources::last_scan(store).await?,
        stream: sources::stream(store).await?,
    })
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

fn rfc3339<S: Serializer>(at: &DateTime, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.try_to_rfc3339_string().unwrap_or_default())
}

fn rfc3339_if_known<S: Serializer>(at: &Option<DateTime>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

fn whole_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs()).serialize(serializer)
}
