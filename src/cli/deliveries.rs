//! `certhookd deliveries`: deliveries page by page, the latest first.

use bson::DateTime;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::endpoints::Endpoints;
use super::{ask, table};
use crate::config::Config;
use crate::history::{self, After, Choice, Delivery, Listing, STATES};
use crate::model::EventType;
use crate::store::Store;

/// The most that `--limit` may be.
const MOST: i64 = 10_000;

/// Which deliveries; what is given must all hold. What is pending comes first, the latest due first, then what has ended, the latest
/// first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An endpoint, as `ORGANIZATION/ENDPOINT`, or by its id alone while it is configured.
    #[arg(long)]
    endpoint: Option<String>,
    /// An organization.
    #[arg(long)]
    organization: Option<String>,
    /// A type of event.
    #[arg(long, value_parser = super::event_type)]
    event_type: Option<EventType>,
    /// What happened then or later, e.g. 2026-11-24T00:00:00Z.
    #[arg(long, value_parser = ask::instant)]
    from: Option<DateTime>,
    /// What happened before then.
    #[arg(long, value_parser = ask::instant)]
    to: Option<DateTime>,
    /// Deliveries in these states; all without it.
    #[arg(long, value_delimiter = ',', value_parser = STATES)]
    state: Vec<String>,
    /// Deliveries on a page, at most; a page that would have to look at too much is shorter.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=MOST))]
    limit: i64,
    /// What the page before said at its end.
    #[arg(long, value_name = "TOKEN")]
    after: Option<After>,
    /// Print a JSON object per line: deliveries, then documents that can't be read (`odd`), then where to go on (`after`).
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let listing = list(&store, config, &args).await;
    store.close().await;
    let listing = listing?;
    if args.json {
        print_json(&listing)?;
    } else {
        print(&listing);
    }
    Ok(())
}

async fn list(store: &Store, config: &Config, args: &Args) -> anyhow::Result<Listing> {
    super::hello(store).await?;
    let organization = args.organization.as_deref();
    let mut choice = Choice {
        endpoint: ask::resolve(store, config, args.endpoint.clone(), organization).await?,
        organization: args.organization.clone(),
        event_type: args.event_type,
        from: args.from,
        to: args.to,
        states: args.state.clone(),
        ..Choice::default()
    };
    if choice.states.is_empty() {
        choice.states = STATES.map(str::to_owned).to_vec();
    }
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let endpoints = Endpoints::new(store, config);
    Ok(history::list(store, &endpoints, config, &choice, limit, args.after.clone()).await?)
}

fn print_json(listing: &Listing) -> anyhow::Result<()> {
    for delivery in &listing.deliveries {
        say!("{}", serde_json::to_string(delivery)?);
    }
    for odd in &listing.odd {
        say!("{}", json!({ "odd": odd }));
    }
    if let Some(after) = &listing.after {
        say!("{}", json!({ "after": after.to_string() }));
    }
    Ok(())
}

fn print(listing: &Listing) {
    let row = |one: &Delivery| {
        let last = one.history.last();
        let error = one
            .reason
            .as_ref()
            .or(one.last_error.as_ref())
            .filter(|_| one.state != "delivered");
        vec![
            one.delivery.clone(),
            one.state.to_owned(),
            one.attempts.to_string(),
            instant(one.occurred_at),
            instant(one.ended_at.or(last.and_then(|attempt| attempt.at))),
            error.cloned().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = listing.deliveries.iter().map(row).collect();
    table::print(
        &["delivery", "state", "attempts", "happened", "last change", "why"],
        &rows,
    );
    for odd in &listing.odd {
        say!("odd: {}: {}", odd.document, odd.why);
    }
    if let Some(after) = &listing.after {
        say!("more may follow: --after {after}");
    }
}

fn instant(at: Option<DateTime>) -> String {
    at.and_then(|at| at.try_to_rfc3339_string().ok()).unwrap_or_default()
}
