//! `certhookd events`: deliveries as they change, followed from outside of the instances.

mod line;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::target;
use crate::config::Config;
use crate::model::EventType;
use crate::outbox::{Change, Follower, Wanted};
use crate::service::signals::Signals;
use crate::store::Store;

/// Changes that wait to be printed; a slow terminal holds the stream up, not the deliveries.
const BUFFER: usize = 100;

/// How long a stop waits for what MongoDB was asked last.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What to follow; what is given must all hold.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An endpoint, by its id or as `ORGANIZATION/ENDPOINT`.
    #[arg(long)]
    endpoint: Option<String>,
    /// An organization.
    #[arg(long)]
    organization: Option<String>,
    /// A type of event.
    #[arg(long, value_parser = super::event_type)]
    event_type: Option<EventType>,
    /// Deliveries that come into these states; all without it.
    #[arg(long, value_delimiter = ',', value_parser = STATES)]
    state: Vec<String>,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

const STATES: [&str; 5] = ["pending", "delivered", "dead", "cancelled", "rejected"];

/// Prints until Ctrl-C, or until nobody reads.
pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let wanted = Wanted {
        endpoint: args.endpoint,
        organization: args.organization,
        event_type: args.event_type,
    };
    let done = match open(&store, config, wanted).await {
        Ok(follower) => follow(follower, args.json, &args.state).await,
        Err(error) => Err(error),
    };
    store.close().await;
    done.context("deliveries can't be followed")
}

/// A misspelt endpoint would never have a delivery.
async fn open(store: &Store, config: &Config, wanted: Wanted) -> anyhow::Result<Follower> {
    super::hello(store).await?;
    if wanted.endpoint.is_some() || wanted.organization.is_some() {
        target::check(
            store,
            config,
            wanted.endpoint.as_deref(),
            wanted.organization.as_deref(),
        )
        .await?;
    }
    Follower::open(store.clone(), wanted)
        .await
        .map_err(|error| anyhow::anyhow!(error.to_string()))
}

async fn follow(follower: Follower, json: bool, states: &[String]) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let stop = CancellationToken::new();
    let (sender, changes) = mpsc::channel(BUFFER);
    let following = tokio::spawn(follower.run(sender, stop.clone()));
    let printed = tokio::select! {
        printed = print(changes, json, states) => printed,
        () = signals.stopped() => Ok(()),
    };
    stop.cancel();
    // It ends by itself, unless MongoDB does not respond.
    let _ = tokio::time::timeout(STOP_TIMEOUT, following).await;
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

async fn print(mut changes: mpsc::Receiver<Change>, json: bool, states: &[String]) -> io::Result<()> {
    // In colours on a terminal alone.
    let mut out = anstream::stdout();
    if !json {
        writeln!(out, "{}", line::HEADER)?;
    }
    debug!("following deliveries");
    while let Some(change) = changes.recv().await {
        if !states.is_empty() && !states.contains(&change.state) {
            continue;
        }
        if json {
            writeln!(out, "{}", line::json(&change))?;
        } else {
            writeln!(out, "{}", line::text(&change))?;
        }
    }
    Ok(())
}
