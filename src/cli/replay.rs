//! `certhookd replay`: sends again what ended.

use anyhow::{Context, ensure};
use bson::{DateTime, doc};
use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::table;
use crate::config::Config;
use crate::model::EventType;
use crate::outbox::Selection;
use crate::store::Store;

/// A dry run shows no more than this.
const SHOWN: i64 = 100;

/// What to send again; what is given must all hold.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A delivery (`EVENT/OWNER/ENDPOINT`) or an event (then every delivery of it).
    #[arg(long)]
    id: Option<String>,
    /// An endpoint, by its id or as `OWNER/ENDPOINT`.
    #[arg(long)]
    endpoint: Option<String>,
    /// An organization.
    #[arg(long)]
    owner: Option<String>,
    /// A type of event.
    #[arg(long, value_parser = super::event_type)]
    event_type: Option<EventType>,
    /// What happened then or later, e.g. 2026-11-24T00:00:00Z.
    #[arg(long, value_parser = instant)]
    from: Option<DateTime>,
    /// What happened before then.
    #[arg(long, value_parser = instant)]
    to: Option<DateTime>,
    /// Deliveries that ended so.
    #[arg(long, value_delimiter = ',', default_value = "dead", value_parser = ["dead", "cancelled", "delivered"])]
    state: Vec<String>,
    /// Show what would be sent; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Every delivery in that state, without any other choice.
    #[arg(long)]
    all: bool,
}

impl Args {
    fn selection(self) -> anyhow::Result<Selection> {
        let chosen = self.id.is_some()
            || self.endpoint.is_some()
            || self.owner.is_some()
            || self.event_type.is_some()
            || self.from.is_some()
            || self.to.is_some();
        ensure!(chosen || self.all, "nothing is chosen: say which deliveries, or --all");
        Ok(Selection {
            id: self.id,
            endpoint: self.endpoint,
            owner: self.owner,
            event_type: self.event_type,
            from: self.from,
            to: self.to,
            states: self.state,
        })
    }
}

/// Replays, or shows what would be replayed.
pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let dry_run = args.dry_run;
    let selection = args.selection()?;
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let done = if dry_run {
        show(&store, &selection).await
    } else {
        replay(&store, &selection).await
    };
    store.close().await;
    done
}

async fn replay(store: &Store, selection: &Selection) -> anyhow::Result<()> {
    let count = selection.replay(store).await?;
    println!("{count} deliveries are pending again");
    Ok(())
}

async fn show(store: &Store, selection: &Selection) -> anyhow::Result<()> {
    let deliveries = store.deliveries();
    let count = deliveries.count_documents(selection.filter()).await?;
    let fields = doc! { "state": 1, "attempts": 1, "occurredAt": 1, "lastError": 1, "reason": 1 };
    let found = deliveries
        .find(selection.filter())
        .projection(fields)
        .sort(doc! { "occurredAt": 1 })
        .limit(SHOWN);
    let found: Vec<_> = found.await?.try_collect().await?;
    let row = |document: &bson::RawDocumentBuf| {
        let text = |field| document.get_str(field).unwrap_or_default().to_owned();
        let at = document
            .get_datetime("occurredAt")
            .ok()
            .and_then(|at| at.try_to_rfc3339_string().ok());
        let attempts = document.get_i32("attempts").unwrap_or(0).to_string();
        vec![
            text("_id"),
            text("state"),
            attempts,
            at.unwrap_or_default(),
            text("lastError"),
        ]
    };
    table::print(
        &["delivery", "state", "attempts", "happened", "last error"],
        &found.iter().map(row).collect::<Vec<_>>(),
    );
    println!("{count} deliveries would be sent again");
    Ok(())
}

fn instant(text: &str) -> anyhow::Result<DateTime> {
    DateTime::parse_rfc3339_str(text).context("expected an instant such as 2026-11-24T00:00:00Z")
}
