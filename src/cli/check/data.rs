//! What is there: collections, the first scan's work, endpoints.

use bson::{DateTime, doc};
use mongodb::Collection;

use super::{Finding, PATIENCE, kind, say, warn};
use crate::config::Config;
use crate::model::count;
use crate::platform::{Directory, Found};
use crate::service::one_line;
use crate::source::expired;
use crate::store::{Error, OPERATIONS, OUTBOX, Result, STATE, STATISTICS, Store};

/// No more endpoints that are out of service are named.
const NAMED: usize = 20;

/// One line for each collection; those of the platform with what is in them.
pub(super) async fn collections(config: &Config, store: &Store) -> Finding {
    let list = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
    let reply = match store.database().run_command(list).await.map_err(Error::from) {
        Ok(reply) => reply,
        Err(error) => return say(kind(&error), "collections", &error.to_string()),
    };
    let rows = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    let names: Vec<_> = rows.into_iter().flatten().filter_map(bson::Bson::as_document).collect();
    let exists = |wanted: &str| {
        names
            .iter()
            .any(|row| row.get_str("name").is_ok_and(|name| name == wanted))
    };
    let database = &config.mongodb.database;
    let mut worst = Finding::Good;
    for collection in [store.badge_users(), store.member_configs()] {
        let name = collection.name();
        worst = worst.max(if exists(name) {
            match documents(&collection).await {
                Ok(many) => say(
                    Finding::Good,
                    "collection",
                    &format!("{name}, {}", count(many, "document")),
                ),
                Err(error) => say(kind(&error), "collection", &format!("{name}: {error}")),
            }
        } else {
            warn("collection", &format!("{name} does not exist in database {database}"))
        });
    }
    for name in [OUTBOX, STATE, STATISTICS, OPERATIONS] {
        let there = if exists(name) {
            "exists"
        } else {
            "does not exist: created at the start"
        };
        say(Finding::Good, "collection", &format!("{name} {there}"));
    }
    worst
}

/// From the collection's own count.
async fn documents<T: Send + Sync>(collection: &Collection<T>) -> Result<u64> {
    Ok(collection.estimated_document_count().await?)
}

/// How many certificates the first scan would tell of.
pub(super) async fn first_scan(config: &Config, store: &Store, now: DateTime) -> Finding {
    let point = "first scan";
    let filter = expired(now, config.scan.not_before);
    let counting = store.badge_users().count_documents(filter).max_time(PATIENCE).await;
    match counting.map_err(Error::from) {
        Ok(0) => say(Finding::Good, point, "no certificate has expired that is not marked"),
        Ok(many) => {
            let certificates = count(many, "certificate");
            let text = format!(
                "{certificates} would be told of as expired; scan.not_before leaves older ones alone, `certhookd scan --dry-run` counts per organization"
            );
            say(Finding::Good, point, &text)
        }
        Err(error) => say(kind(&error), point, &format!("certificates can't be counted: {error}")),
    }
}

/// How many endpoints there are, and a line for each that is out of service.
pub(super) async fn endpoints(config: &Config, store: &Store) -> Finding {
    let point = "endpoints";
    let directory = match crate::cli::directory(store, config).await {
        Ok(directory) => directory,
        Err(error) => match error.downcast_ref::<Error>() {
            Some(refused) => return say(kind(refused), point, &refused.to_string()),
            None => return say(Finding::Unreachable, point, &error.to_string()),
        },
    };
    let (served, off, out_of_service) = directory.count();
    let text = format!("{served} served, {off} off, {out_of_service} out of service");
    say(Finding::Good, point, &text);
    name_faulty(&directory);
    Finding::Good
}

fn name_faulty(directory: &Directory) {
    let keys = directory.keys();
    let faulty = keys.iter().filter_map(|key| match directory.find(key) {
        Found::OutOfService { reason } => Some((key, reason)),
        _ => None,
    });
    let faulty: Vec<_> = faulty.collect();
    for (key, reason) in faulty.iter().take(NAMED) {
        warn("endpoint", &format!("{key} is out of service: {}", one_line(reason)));
    }
    if faulty.len() > NAMED {
        let more = faulty.len() - NAMED;
        warn(
            "endpoint",
            &format!("{more} more are out of service: `certhookd status --trouble` lists all"),
        );
    }
}
