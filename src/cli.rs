//! The command line: arguments, exit codes, and what people read.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "people read it")]

#[macro_use]
mod output;

mod ask;
mod backfill;
mod cancel;
mod check;
mod deliveries;
mod demo;
mod encrypt;
mod endpoints;
mod erase;
mod events;
mod generate;
mod health;
mod hold;
mod replay;
mod sandbox;
mod scan;
mod send_test;
mod show;
mod status;
mod table;
mod target;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bson::Document;
use clap::{Parser, Subcommand};

use crate::config::{Config, Credentials, Faults};
use crate::failpoint;
use crate::model::EventType;
use crate::platform::Directory;
use crate::run::{self, Misconfigured};
use crate::service::telemetry::{self, LogFormat};
use crate::store::{Kind, Store};
use endpoints::Endpoints;

/// What needs a change of the configuration. systemd does not restart on it (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;

/// What clap exits with on bad usage, too.
const EX_USAGE: u8 = 2;

/// Arguments that make no sense together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// The configuration file where none is named.
const CONFIG_FILE: &str = "/etc/certhookd/config.toml";

/// What a sandbox logs: what goes wrong, and that it fetches a mongod. Failed attempts are part of the demo, which prints them.
const QUIET: &str = "warn,certhookd::sandbox=info,certhookd::run::tally=error,rustls_platform_verifier=off";

/// Durable webhooks for certificates, from MongoDB to the endpoints that subscribed.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    /// The configuration file; without it the one that CERTHOOKD_CONFIG names, then /etc/certhookd/config.toml. Without any the
    /// defaults and CERTHOOKD_SECTION__KEY variables count.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The form of the log.
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run,
    /// Check configuration, connection, replica set, indexes and privileges: a line each.
    Check {
        /// Only the configuration; MongoDB is not asked.
        #[arg(long)]
        config_only: bool,
    },
    /// Scan once, deliver what it found, exit.
    Scan {
        /// Count per organization what would go out; write and send nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show all that is known of a certificate, an event or a delivery: every endpoint, every attempt, and what happens next.
    Show(show::Args),
    /// List deliveries, page by page.
    Deliveries(deliveries::Args),
    /// Send again what has ended: dead letters, cancelled or delivered ones. Running instances do it within a second.
    Replay(replay::Args),
    /// Have deliveries of an endpoint, an organization or all wait, in every instance: nothing begins any more.
    Hold(hold::Hold),
    /// Have deliveries that are held go out: what has waited after what happens now, one request at first.
    Release(hold::Release),
    /// End deliveries that wait, or dead letters: kept as cancelled, and replayable.
    Cancel(cancel::Args),
    /// Send an endpoint what its organization's certificates are now: after what happens meanwhile, at a rate.
    Backfill(backfill::Args),
    /// Erase payloads and bodies of responses of a user or a certificate, and end what waits of them: nothing of them goes out
    /// afterwards.
    Erase(erase::Args),
    /// Encrypt a secret of an endpoint, read from standard input, for the platform's document; or make a key for that.
    Encrypt(encrypt::Args),
    /// Send a sample event to an endpoint as the daemon would, and show request and response. Nothing is stored.
    SendTest(send_test::Args),
    /// Follow deliveries live: one line per change of a delivery, until Ctrl-C.
    Events(events::Args),
    /// Show instances, outbox, endpoints, last scan and stream, as MongoDB knows them.
    Status(status::Args),
    /// Ask the instance on this machine whether its loops move, or with --ready whether it does its work: exit 0 or 1.
    Health(health::Args),
    /// Show it all at work: a throwaway MongoDB, sample organizations, a local receiver.
    Demo(demo::Args),
    /// Start a throwaway MongoDB and a receiver, print their addresses, run until stdin closes.
    #[command(hide = true)]
    Sandbox,
    /// Write manual pages and shell completions.
    #[command(hide = true)]
    Generate {
        /// Where to: `man` and `completions` are made there.
        directory: PathBuf,
    },
}

impl Command {
    /// What is logged where [`telemetry::FILTER_VARIABLE`] doesn't say it.
    fn filter(&self) -> &'static str {
        match self {
            Self::Demo(_) | Self::Sandbox => QUIET,
            _ => telemetry::DEFAULT_FILTER,
        }
    }
}

/// Half of the cores: the other half is MongoDB's on a small machine, and threads that have little to do cost each other
/// wake-ups.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let _armed = failpoint::arm();
    let args = Args::parse();
    let filter = std::env::var(telemetry::FILTER_VARIABLE).unwrap_or_else(|_| args.command.filter().into());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build();
    let done = telemetry::init(args.log_format, &filter)
        .and_then(|()| Ok(runtime?))
        .and_then(|runtime| runtime.block_on(execute(args)))
        .and_then(|code| output::written().map(|()| code));
    match done {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            code_of(&error)
        }
    }
}

async fn execute(args: Args) -> anyhow::Result<ExitCode> {
    let file = config_file(args.config);
    match args.command {
        Command::Run => {
            let path = file.clone();
            let load = Box::new(move || load(path.as_deref()));
            run::run(run::Options {
                load,
                file,
                host: host(),
            })
            .await?;
        }
        Command::Check { config_only } => return Ok(check::run(file.as_deref(), config_only).await),
        Command::Scan { dry_run } => return scan::run(&load(file.as_deref())?, dry_run).await,
        Command::Show(args) => return show::run(&load(file.as_deref())?, args).await,
        Command::Deliveries(args) => deliveries::run(&load(file.as_deref())?, args).await?,
        Command::Replay(args) => replay::run(&load(file.as_deref())?, args).await?,
        Command::Hold(args) => hold::hold(&load(file.as_deref())?, args).await?,
        Command::Release(args) => hold::release(&load(file.as_deref())?, args).await?,
        Command::Cancel(args) => cancel::run(&load(file.as_deref())?, args).await?,
        Command::Backfill(args) => backfill::run(&load(file.as_deref())?, args).await?,
        Command::Health(args) => return health::run(&load(file.as_deref())?, args).await,
        Command::Erase(args) => erase::run(&load(file.as_deref())?, args).await?,
        Command::Encrypt(args) => encrypt::run(|| Ok(load(file.as_deref())?), args)?,
        Command::SendTest(args) => return send_test::run(&load(file.as_deref())?, args).await,
        Command::Events(args) => events::run(&load(file.as_deref())?, args).await?,
        Command::Status(args) => status::run(&load(file.as_deref())?, args).await?,
        Command::Demo(args) => return demo::run(&args).await,
        Command::Sandbox => sandbox::run().await?,
        Command::Generate { directory } => generate::run(&directory)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The file that is named, else the usual one if it is there.
fn config_file(named: Option<PathBuf>) -> Option<PathBuf> {
    let usual = || {
        let usual = PathBuf::from(CONFIG_FILE);
        // One that can't be looked at is a fault, not a reason to go on without it.
        let absent = matches!(usual.try_exists(), Ok(false));
        (!absent).then_some(usual)
    };
    let of_variable = || std::env::var_os("CERTHOOKD_CONFIG").filter(|file| !file.is_empty());
    named.or_else(|| of_variable().map(PathBuf::from)).or_else(usual)
}

/// The configuration as the process finds it; what it ignores is a WARN each.
fn load(file: Option<&Path>) -> Result<Config, Faults> {
    let config = read(file)?;
    for warning in &config.warnings {
        tracing::warn!("configuration: {warning}");
    }
    Ok(config)
}

fn read(file: Option<&Path>) -> Result<Config, Faults> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let env: Vec<_> = std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    Config::load(file, &env, &Credentials::of_process())
}

/// All endpoints, as they are configured now.
async fn directory(store: &Store, config: &Config) -> anyhow::Result<Directory> {
    hello(store).await?;
    Ok(Endpoints::new(store, config).all().await?)
}

/// MongoDB's reply to `hello`. If it is no member of the replica set that the connection string names, the error says what it is.
async fn hello(store: &Store) -> anyhow::Result<Document> {
    let error = match store.hello().await {
        Ok(hello) => return Ok(hello),
        Err(error) => error,
    };
    if error.kind() == Kind::Unavailable
        && let Some(contradiction) = store.contradiction().await
    {
        return Err(Misconfigured(contradiction).into());
    }
    Err(anyhow::Error::new(error).context(format!("MongoDB at {}", store.hosts())))
}

/// A type of event, as an argument.
fn event_type(name: &str) -> Result<EventType, String> {
    EventType::parse(name).ok_or_else(|| {
        let known: Vec<_> = EventType::ALL.iter().map(|known| known.as_str()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

/// This machine's name.
fn host() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "unknown".into())
}

/// Each fault of the configuration is a line; any other error is one line with its causes.
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<Faults>() {
        Some(faults) => faults
            .iter()
            .for_each(|fault| tracing::error!("configuration: {fault}")),
        None => tracing::error!("{error:#}"),
    }
}

fn code_of(error: &anyhow::Error) -> ExitCode {
    let configuration = error.is::<Faults>() || error.is::<Misconfigured>();
    match () {
        () if configuration => ExitCode::from(EX_CONFIG),
        () if error.is::<Usage>() => ExitCode::from(EX_USAGE),
        () => ExitCode::FAILURE,
    }
}
