//! What is in the database: collections, certificates for the first scan, endpoints.

use bson::{DateTime, Document, doc};
use mongodb::Collection;

use super::{Finding, REPLY_TIMEOUT, kind, say, warn};
use crate::config::Config;
use crate::model::count;
use crate::platform::{Directory, EndpointCounts, Found};
use crate::service::one_line;
use crate::source::expired;
use crate::store::{Error, OPERATIONS, OUTBOX, Result, STATE, STATISTICS, Store};

/// At most this many endpoints that are out of service are named.
const NAMED: usize = 20;

const COLLECTION: &str = "collection";

/// One line for each collection; those of the platform with what is in them.
pub(super) async fn collections(config: &Config, store: &Store) -> Finding {
    let names = match names(store).await {
        Ok(names) => names,
        Err(error) => return say(kind(&error), "collections", &error.to_string()),
    };
    let mut worst = Finding::Good;
    for collection in [store.badge_users(), store.member_configs()] {
        worst = worst.max(if names.iter().any(|name| name == collection.name()) {
            size(&collection).await
        } else {
            let (name, database) = (collection.name(), &config.mongodb.database);
            warn(COLLECTION, &format!("{name} does not exist in database {database}"))
        });
    }
    for name in [OUTBOX, STATE, STATISTICS, OPERATIONS] {
        let text = if names.iter().any(|known| known == name) {
            format!("{name} exists")
        } else {
            format!("{name} does not exist: created at the start")
        };
        say(Finding::Good, COLLECTION, &text);
    }
    warn_of_validators(store).await;
    worst
}

/// A validator on a collection of ours refuses what the daemon writes, while all that is asked for above is there.
async fn warn_of_validators(store: &Store) {
    let ours = doc! { "$in": [OUTBOX, STATE, STATISTICS, OPERATIONS] };
    let list = doc! { "listCollections": 1, "filter": { "name": ours } };
    // Without the privilege, which has a line of its own, nothing is known of them.
    let Ok(reply) = store.database().run_command(list).await else {
        return;
    };
    let database = store.database();
    for collection in listed(&reply) {
        let options = collection.get_document("options");
        let validator = options.and_then(|options| options.get_document("validator"));
        if let Ok(name) = collection.get_str("name")
            && validator.is_ok_and(|validator| !validator.is_empty())
        {
            let text = format!(
                "{name} has a validator, which may refuse what the daemon writes; it must go: \
                 db.getSiblingDB({:?}).runCommand({{ collMod: \"{name}\", validator: {{}} }})",
                database.name()
            );
            warn(COLLECTION, &text);
        }
    }
}

async fn names(store: &Store) -> Result<Vec<String>> {
    let list = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
    let reply = store.database().run_command(list).await?;
    let name = |document: &Document| document.get_str("name").ok().map(str::to_owned);
    Ok(listed(&reply).filter_map(name).collect())
}

/// The documents of a reply to `listCollections`.
fn listed(reply: &Document) -> impl Iterator<Item = &Document> {
    let batch = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    batch.into_iter().flatten().filter_map(bson::Bson::as_document)
}

/// By the collection's own count.
async fn size<T: Send + Sync>(collection: &Collection<T>) -> Finding {
    let name = collection.name();
    match collection.estimated_document_count().await.map_err(Error::from) {
        Ok(many) => say(
            Finding::Good,
            COLLECTION,
            &format!("{name}, {}", count(many, "document")),
        ),
        Err(error) => say(kind(&error), COLLECTION, &format!("{name}: {error}")),
    }
}

/// How many certificates the first scan would send.
pub(super) async fn first_scan(config: &Config, store: &Store, now: DateTime) -> Finding {
    let point = "first scan";
    let filter = expired(now, config.scan.not_before);
    let counting = store
        .badge_users()
        .count_documents(filter)
        .max_time(REPLY_TIMEOUT)
        .await;
    match counting.map_err(Error::from) {
        Ok(0) => say(Finding::Good, point, "no certificate has expired that is not marked"),
        Ok(many) => {
            let certificates = count(many, "certificate");
            let text = format!(
                "{certificates} would be sent as expired; scan.not_before leaves older ones alone, `certhookd scan --dry-run` counts per organization"
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
    let EndpointCounts {
        served,
        off,
        out_of_service,
    } = directory.count();
    let text = format!("{served} served, {off} off, {out_of_service} out of service");
    say(Finding::Good, point, &text);
    warn_of_faulty(&directory);
    Finding::Good
}

fn warn_of_faulty(directory: &Directory) {
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
