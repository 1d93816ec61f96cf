//! `certhookd check`: is everything there that the daemon needs? A line each, and an exit code for scripts.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio_util::sync::CancellationToken;

use super::EX_CONFIG;
use crate::config::Config;
use crate::mail::Mailer;
use crate::run::{is_refusal, is_replica_set};
use crate::store::{Result, SCAN_INDEX, Store, scan_index};

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
        Err(error) => return say(Finding::Misconfigured, "connection", &error.to_string()),
    };
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
        replica_set(config, &hello),
        privileges(config, store).await,
        index(config, store).await,
        mail_server(config).await,
    ];
    worst.into_iter().max().unwrap_or(Finding::Good)
}

fn replica_set(config: &Config, hello: &Document) -> Finding {
    match (is_replica_set(hello), config.completions.enabled) {
        (true, _) => say(
            Finding::Good,
            "replica set",
            hello.get_str("setName").unwrap_or("sharded cluster"),
        ),
        (false, false) => say(
            Finding::Good,
            "replica set",
            "standalone, which does as completions are off",
        ),
        (false, true) => say(Finding::Misconfigured, "replica set", crate::run::NEEDS_REPLICA_SET),
    }
}

/// Tries what the daemon does, where a try changes nothing.
async fn privileges(config: &Config, store: &Store) -> Finding {
    let nothing = doc! { "_id": Bson::ObjectId(bson::oid::ObjectId::from_bytes([0; 12])) };
    let touch = doc! { "$unset": { "certhookdCheck": 1 } };
    let tries: [(&str, Result<()>); 6] = [
        (
            "read badge users",
            store.badge_users().find_one(nothing.clone()).await.map(drop),
        ),
        (
            "read member configs",
            store.member_configs().find_one(nothing.clone()).await.map(drop),
        ),
        (
            "mark badge users",
            store
                .badge_users()
                .update_one(nothing.clone(), touch.clone())
                .await
                .map(drop),
        ),
        (
            "write deliveries",
            store
                .deliveries()
                .update_one(nothing.clone(), touch.clone())
                .await
                .map(drop),
        ),
        (
            "write state",
            store.state().update_one(nothing.clone(), touch.clone()).await.map(drop),
        ),
        (
            "write statistics",
            store.statistics().update_one(nothing, touch).await.map(drop),
        ),
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

async fn users_privilege(config: &Config, store: &Store) -> Finding {
    if config.email.smtp_url.is_none() {
        return Finding::Good;
    }
    let users = store.database().collection::<Document>(&config.email.users);
    match users.find_one(doc! {}).projection(doc! { "_id": 1 }).await {
        Ok(_) => say(Finding::Good, "privilege", "read users"),
        Err(error) => say(kind(&error), "privilege", &format!("read users: {error}")),
    }
}

async fn watch_privilege(config: &Config, store: &Store) -> Finding {
    if !config.completions.enabled {
        return Finding::Good;
    }
    match store.badge_users().watch().await {
        Ok(_) => say(Finding::Good, "privilege", "watch badge users"),
        // Said already: see `replica_set`.
        Err(error) if crate::store::command_code(&error) == Some(40573) => Finding::Good,
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

fn kind(error: &mongodb::error::Error) -> Finding {
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
