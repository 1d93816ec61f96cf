//! `certhookd replay`: sends again what has ended.

use anyhow::bail;
use bson::{Document, doc};
use tokio_util::sync::CancellationToken;

use super::ask::{DeliveryChoice, OperationArgs, ask, resolve};
use super::table;
use crate::config::Config;
use crate::model::count;
use crate::operations::{Kind, selection_of};
use crate::outbox::{self, LookedUp, Preview, Replayable};
use crate::service::one_line;
use crate::store::Store;

/// A dry run shows no more than this.
const SHOWN: usize = 100;

/// What to send again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    choice: DeliveryChoice,
    /// Deliveries that ended so.
    #[arg(long, value_delimiter = ',', default_value = "dead", value_parser = ["dead", "cancelled", "delivered"])]
    state: Vec<String>,
    /// Deliveries per second, at most.
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// Show what would be sent; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: OperationArgs,
}

/// Replays, or shows what would be replayed.
pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    args.choice.selection(&args.state)?;
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let done = replay(&store, config, args).await;
    store.close().await;
    done
}

async fn replay(store: &Store, config: &Config, mut args: Args) -> anyhow::Result<()> {
    let organization = args.choice.organization.as_deref();
    args.choice.endpoint = resolve(store, config, args.choice.endpoint.take(), organization).await?;
    let selection = args.choice.selection(&args.state)?;
    if args.dry_run || args.choice.id.is_some() {
        let preview = preview(store, &selection).await?;
        if args.dry_run && (preview.deliveries > 0 || args.choice.id.is_none()) {
            show(&preview.first);
        }
        // Nobody need be asked for it.
        if args.dry_run || preview.deliveries == 0 {
            let number = preview.deliveries;
            return ended(
                store,
                &args,
                number,
                "would be sent again",
                [preview.erased, preview.without_payload],
            )
            .await;
        }
    }
    let options = args
        .rate
        .map_or_else(Document::new, |rate| doc! { "ratePerSecond": rate });
    match ask(store, Kind::Replay, selection, options, &args.common).await? {
        None => Ok(()),
        Some(result) => {
            let number = result.get_i64("deliveries")?.unsigned_abs();
            let verb = if number == 1 { "is" } else { "are" };
            let left_out = ["erased", "withoutPayload"].map(|name| result.get_i64(name).unwrap_or(0).unsigned_abs());
            ended(store, &args, number, &format!("{verb} pending again"), left_out).await
        }
    }
}

async fn ended(
    store: &Store,
    args: &Args,
    number: u64,
    what: &str,
    [erased, without_payload]: [u64; 2],
) -> anyhow::Result<()> {
    if let Some(id) = args.choice.id.as_deref().filter(|_| number == 0) {
        bail!(why_none(store, id, &args.state, "sent again").await?);
    }
    say!("{} {what}", count(number, "delivery"));
    if erased > 0 {
        say!("{} left out: erased", count(erased, "delivery"));
    }
    if without_payload > 0 {
        let left_out = count(without_payload, "delivery");
        say!("{left_out} left out: older than delivery.payload_retention, without a payload");
    }
    Ok(())
}

/// What would be sent again.
async fn preview(store: &Store, selection: &Document) -> anyhow::Result<Preview> {
    let now = *super::hello(store).await?.get_datetime("localTime")?;
    let selection = selection_of(Kind::Replay, selection).map_err(anyhow::Error::msg)?;
    Ok(selection.preview(store, now, SHOWN).await?)
}

/// Whether the id names something in one of these states: only such can be `done`.
///
/// # Errors
/// It does not: why, or the nearest. MongoDB refused or is unavailable.
pub(super) async fn check_id(store: &Store, id: &str, states: &[String], done: &str) -> anyhow::Result<()> {
    match outbox::look_up(store, id).await? {
        LookedUp::States(found) if found.iter().any(|state| states.contains(state)) => Ok(()),
        _ => bail!(why_none(store, id, states, done).await?),
    }
}

/// Why nothing is `done` with what the id names.
async fn why_none(store: &Store, id: &str, states: &[String], done: &str) -> anyhow::Result<String> {
    let shown = one_line(id);
    Ok(match outbox::look_up(store, id).await? {
        LookedUp::States(found) => format!(
            "nothing of {shown} is {}, or not of what was chosen besides: it is {}",
            states.join(" or "),
            found.join(" and ")
        ),
        LookedUp::Erased => format!("{shown} can't be {done}: it was erased"),
        LookedUp::WithoutPayload => {
            format!("{shown} can't be {done}: its payload was dropped, as delivery.payload_retention says")
        }
        LookedUp::Nearest(Some(nearest)) => format!("the outbox holds no {shown}; the nearest: {nearest}"),
        LookedUp::Nearest(None) => format!("the outbox holds no {shown}"),
    })
}

fn show(deliveries: &[Replayable]) {
    let row = |one: &Replayable| {
        vec![
            one.delivery.clone(),
            one.state.clone(),
            one.attempts.to_string(),
            one.occurred_at.try_to_rfc3339_string().unwrap_or_default(),
            one.last_error.clone().unwrap_or_default(),
        ]
    };
    table::print(
        &["delivery", "state", "attempts", "happened", "last error"],
        &deliveries.iter().map(row).collect::<Vec<_>>(),
    );
}
