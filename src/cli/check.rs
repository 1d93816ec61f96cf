//! `certhookd check`: is everything there that the daemon needs? A line each, and an exit code for scripts.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::Collection;
use tokio_util::sync::CancellationToken;

use super::EX_CONFIG;
use crate::config::Config;
use crate::mail::Mailer;
use crate::run::{is_refusal, is_replica_set};
use crate::store::{Error, Result, SCAN_INDEX, Store, scan_index};

/// The name of a point.
const MAIL_SERVER: &str = "mail server";

/// MongoDB, and the mail server, are asked for no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is found, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    Good,
    /// Can't be reached: exit 1.
    Unreachable,
    /// The configuration must mend it, ours or MongoDB's: exit 78.
    Misconfigured,
}

/// Checks; prints a line for each point.
pub(super) async fn run(file: Option<&Path>, config_only: bool) -> ExitCode {
    let config = match super::load(file) {
        Ok(config) => config,
        Err(faults) => {
            faults.iter().for_each(|fault| println!("FAIL  configuration: {fault}"));
            return ExitCode::from(EX_CONFIG);
        }
    };
    println!("ok    configuration");
    let worst = if config_only {
        Finding::Good
    } else {
        database(&config).await
    };
    match worst {
        Finding::Good => ExitCode::SUCCESS,
        Finding::Unreachable => ExitCode::FAILURE,
        Finding::Misconfigured => ExitCode::from(EX_CONFIG),
    }
}

async fn database(config: &Config) -> Finding {
    let store = match Store::new(&config.mongodb, CancellationToken::new()).await {
        Ok(store) => store,
        Err(error) => return say(kind(&error), "connection", &error.to_string()),
    };
    for option in store.overridden() {
        say(Finding::Good, "connection string", option);
    }
    let worst = ask(config, &store).await;
    store.close().await;
    worst
}

async fn ask(config: &Config, store: &Store) -> Finding {
    let hello = match tokio::time::timeout(PATIENCE, store.hello()).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return say(kind(&error), "connection", &error.to_string()),
        Err(_) => return say(Finding::Unreachable, "connection", "no answer within 10 s"),
    };
    let version = hello.get_i32("maxWireVersion").unwrap_or(0);
    let worst = [
        say(
            Finding::Good,
            "connection",
            &format!("database {}, wire version {version}", config.mongodb.database),
        ),
        replica_set(&hello),
        privileges(config, store).await,
        index(config, store).await,
        mail_server(config).await,
    ];
    worst.into_iter().max().unwrap_or(Finding::Good)
}

fn replica_set(hello: &Document) -> Finding {
    let point = "replica set";
    if !is_replica_set(hello) {
        return say(Finding::Misconfigured, point, crate::run::NEEDS_REPLICA_SET);
    }
    // With `directConnection=true` any member may have replied.
    if hello.get_bool("isWritablePrimary").is_ok_and(|primary| !primary) {
        return say(
            Finding::Unreachable,
            point,
            "the member that replied is not primary, and only the primary takes writes",
        );
    }
    say(
        Finding::Good,
        point,
        hello.get_str("setName").unwrap_or("sharded cluster"),
    )
}

/// Tries what the daemon does, where a try changes nothing.
async fn privileges(config: &Config, store: &Store) -> Finding {
    let nothing = doc! { "_id": Bson::ObjectId(bson::oid::ObjectId::from_bytes([0; 12])) };
    let touch = doc! { "$unset": { "certhookdCheck": 1 } };
    let tries: [(&str, Result<()>); 6] = [
        ("read badge users", read(store.badge_users(), &nothing).await),
        ("read member configs", read(store.member_configs(), &nothing).await),
        ("mark badge users", write(store.badge_users(), &nothing, &touch).await),
        ("write deliveries", write(store.outbox(), &nothing, &touch).await),
        ("write state", write(store.state(), &nothing, &touch).await),
        ("write statistics", write(store.statistics(), &nothing, &touch).await),
    ];
    let mut worst = Finding::Good;
    for (what, tried) in tries {
        worst = worst.max(match tried {
            Ok(()) => say(Finding::Good, "privilege", what),
            Err(error) => say(kind(&error), "privilege", &format!("{what}: {error}")),
        });
    }
    worst
        .max(users_privilege(config, store).await)
        .max(watch_privilege(config, store).await)
}

async fn read(collection: Collection<RawDocumentBuf>, nothing: &Document) -> Result<()> {
    collection.find_one(nothing.clone()).await?;
    Ok(())
}

async fn write<T: Send + Sync>(collection: Collection<T>, nothing: &Document, touch: &Document) -> Result<()> {
    collection.update_one(nothing.clone(), touch.clone()).await?;
    Ok(())
}

async fn users_privilege(config: &Config, store: &Store) -> Finding {
    if config.email.smtp_url.is_none() {
        return Finding::Good;
    }
    let users = store.database().collection::<Document>(&config.email.users);
    let found = users.find_one(doc! {}).projection(doc! { "_id": 1 }).await;
    match found.map_err(Error::from) {
        Ok(_) => say(Finding::Good, "privilege", "read users"),
        Err(error) => say(kind(&error), "privilege", &format!("read users: {error}")),
    }
}

async fn watch_privilege(config: &Config, store: &Store) -> Finding {
    if !config.completions.enabled {
        return Finding::Good;
    }
    match store.badge_users().watch().await.map_err(Error::from) {
        Ok(_) => say(Finding::Good, "privilege", "watch badge users"),
        // Said already: see `replica_set`.
        Err(error) if error.code() == Some(40573) => Finding::Good,
        Err(error) => say(kind(&error), "privilege", &format!("watch badge users: {error}")),
    }
}

async fn index(config: &Config, store: &Store) -> Finding {
    let collection = &config.mongodb.badge_users;
    let name = format!("{SCAN_INDEX} on {collection}");
    match scan_index(store).await {
        Ok(Some(name)) => say(Finding::Good, "index", &format!("{name} on {collection}")),
        Ok(None) if config.scan.ensure_indexes => say(Finding::Good, "index", &format!("{name}: created at the start")),
        Ok(None) => say(
            Finding::Misconfigured,
            "index",
            &format!("{name} is missing and scan.ensure_indexes is off: every scan would read the whole collection"),
        ),
        Err(error) => say(kind(&error), "index", &format!("{name}: {error}")),
    }
}

/// Connects to it and logs in; sends nothing.
async fn mail_server(config: &Config) -> Finding {
    let mailer = match Mailer::new(&config.email) {
        Ok(Some(mailer)) => mailer,
        Ok(None) => return Finding::Good,
        Err(error) => return say(Finding::Misconfigured, MAIL_SERVER, &error.to_string()),
    };
    match tokio::time::timeout(PATIENCE, mailer.check()).await {
        Ok(Ok(())) => say(
            Finding::Good,
            MAIL_SERVER,
            "answers, and takes the login where one is configured",
        ),
        Ok(Err((reason, true))) => say(Finding::Misconfigured, MAIL_SERVER, &reason),
        Ok(Err((reason, false))) => say(Finding::Unreachable, MAIL_SERVER, &reason),
        Err(_) => say(Finding::Unreachable, MAIL_SERVER, "no answer within 10 s"),
    }
}

fn kind(error: &Error) -> Finding {
    if is_refusal(error) {
        Finding::Misconfigured
    } else {
        Finding::Unreachable
    }
}

fn say(finding: Finding, point: &str, what: &str) -> Finding {
    let word = if finding == Finding::Good { "ok  " } else { "FAIL" };
    println!("{word}  {point}: {}", what.replace(['\n', '\r'], " "));
    finding
}
