//! `certhookd check`: is everything there that the daemon needs? A line each, and an exit code for scripts.

mod data;
mod privileges;
mod proxy;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bson::{Document, doc};
use tokio_util::sync::CancellationToken;

use super::EX_CONFIG;
use crate::config::Config;
use crate::mail::Mailer;
use crate::run::{Settings, is_refusal, is_replica_set};
use crate::service::one_line;
use crate::store::{Error, Kind, Login, NEEDS_REPLICA_SET, Result, SCAN_INDEX, Store, scan_index};

const MAIL_SERVER: &str = "mail server";

/// How long MongoDB and the mail server are waited for.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// What is found, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    Good,
    /// Can't be reached: exit 1.
    Unreachable,
    /// The configuration must change, ours or MongoDB's: exit 78.
    Misconfigured,
}

/// Prints a line for each point.
pub(super) async fn run(file: Option<&Path>, config_only: bool) -> ExitCode {
    let config = match super::read(file) {
        Ok(config) => config,
        Err(faults) => {
            faults.iter().for_each(|fault| say!("FAIL  configuration: {fault}"));
            return ExitCode::from(EX_CONFIG);
        }
    };
    let worst = match configuration(file, &config) {
        Finding::Good if !config_only => database(&config).await,
        found => found,
    };
    match worst {
        Finding::Good => ExitCode::SUCCESS,
        Finding::Unreachable => ExitCode::FAILURE,
        Finding::Misconfigured => ExitCode::from(EX_CONFIG),
    }
}

/// What a start and a reload check, MongoDB apart.
fn configuration(file: Option<&Path>, config: &Config) -> Finding {
    let point = "configuration";
    let from = file.map_or("the defaults and the environment".into(), |file| {
        file.display().to_string()
    });
    for warning in &config.warnings {
        warn(point, warning);
    }
    if let Err(error) = Settings::new(config) {
        return say(Finding::Misconfigured, point, &format!("{error:#}"));
    }
    say(Finding::Good, point, &from)
}

async fn database(config: &Config) -> Finding {
    let from = format!("from {}", config.connection_string_from);
    let store = match Store::new(&config.mongodb, CancellationToken::new()).await {
        Ok(store) => store,
        Err(error) => return say(kind(&error), "connection", &format!("{error} ({from})")),
    };
    say(Finding::Good, "uri", &from);
    for option in store.overridden() {
        say(Finding::Good, "connection string", option);
    }
    let worst = ask(config, &store).await;
    store.close().await;
    worst
}

async fn ask(config: &Config, store: &Store) -> Finding {
    let server = match tokio::time::timeout(REPLY_TIMEOUT, Server::read(store)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return not_connected(store, &error).await,
        Err(_) => {
            return say(
                Finding::Unreachable,
                "connection",
                &format!("{}: no response within 10 s", store.hosts()),
            );
        }
    };
    let Server { hello, login, version } = server;
    let user = match login.users.join(", ") {
        user if user.is_empty() => "without a login".to_owned(),
        user => format!("as {user}"),
    };
    let hosts = store.hosts();
    let database = &config.mongodb.database;
    let now = hello
        .get_datetime("localTime")
        .copied()
        .unwrap_or_else(|_| crate::model::Clock::local());
    let worst = [
        say(
            Finding::Good,
            "connection",
            &format!("{hosts} {user}, MongoDB {version}, database {database}"),
        ),
        replica_set(&hello),
        privileges::compare(config, &login),
        data::collections(config, store).await,
        index(config, store).await,
        data::first_scan(config, store, now).await,
        data::endpoints(config, store).await,
        mail_server(config).await,
        proxy::try_once(config, store).await,
    ];
    worst.into_iter().max().unwrap_or(Finding::Good)
}

async fn not_connected(store: &Store, error: &Error) -> Finding {
    let contradiction = match error.kind() {
        Kind::Unavailable => store.contradiction().await,
        _ => None,
    };
    let hosts = store.hosts();
    match contradiction {
        Some(contradiction) => say(
            Finding::Misconfigured,
            "replica set",
            &format!("{hosts}: {contradiction}"),
        ),
        None => say(kind(error), "connection", &format!("{hosts}: {error}")),
    }
}

/// The server that replies.
struct Server {
    hello: Document,
    login: Login,
    version: String,
}

impl Server {
    async fn read(store: &Store) -> Result<Self> {
        let hello = store.hello().await?;
        // `hello` and the next ones need no login. This does, where MongoDB asks for one.
        let list = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
        let listed = store.database().run_command(list).await;
        listed.map_err(|error| store.explained(error))?;
        let login = Login::read(store).await?;
        let build = store.database().run_command(doc! { "buildInfo": 1 }).await?;
        let version = build.get_str("version").unwrap_or("of an unknown version").to_owned();
        Ok(Self { hello, login, version })
    }
}

fn replica_set(hello: &Document) -> Finding {
    let point = "replica set";
    if !is_replica_set(hello) {
        return say(Finding::Misconfigured, point, NEEDS_REPLICA_SET);
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
    match tokio::time::timeout(REPLY_TIMEOUT, mailer.check()).await {
        Ok(Ok(())) => say(
            Finding::Good,
            MAIL_SERVER,
            "it replies, and accepts the login where one is configured",
        ),
        Ok(Err(error)) if error.is_permanent => say(Finding::Misconfigured, MAIL_SERVER, &error.reason),
        Ok(Err(error)) => say(Finding::Unreachable, MAIL_SERVER, &error.reason),
        Err(_) => say(Finding::Unreachable, MAIL_SERVER, "no response within 10 s"),
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
    print(word, point, what);
    finding
}

/// Something to be looked at that does not change the exit code.
fn warn(point: &str, what: &str) -> Finding {
    print("WARN", point, what);
    Finding::Good
}

fn print(word: &str, point: &str, what: &str) {
    say!("{word}  {point}: {}", one_line(what));
}
