//! `certhookd cancel`: ends what waits, or dead letters.

use bson::doc;
use tokio_util::sync::CancellationToken;

use super::ask::{DeliveryChoice, OperationArgs, ask, resolve};
use super::replay::check_id;
use crate::config::Config;
use crate::model::count;
use crate::operations::Kind;
use crate::store::Store;

/// What to end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    choice: DeliveryChoice,
    /// Deliveries in these states.
    #[arg(long, value_delimiter = ',', default_value = "pending", value_parser = ["pending", "dead"])]
    state: Vec<String>,
    /// Count what would end; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: OperationArgs,
}

pub(super) async fn run(config: &Config, mut args: Args) -> anyhow::Result<()> {
    let dry_run = args.dry_run;
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let done = async {
        let organization = args.choice.organization.as_deref();
        args.choice.endpoint = resolve(&store, config, args.choice.endpoint.take(), organization).await?;
        let selection = args.choice.selection(&args.state)?;
        let options = doc! { "dryRun": dry_run };
        if let Some(id) = &args.choice.id {
            // Nobody need be asked for it.
            check_id(&store, id, &args.state, "cancelled").await?;
        }
        ask(&store, Kind::Cancel, selection, options, &args.common).await
    };
    let done = done.await;
    store.close().await;
    if let Some(result) = done? {
        let deliveries = count(result.get_i64("deliveries")?.unsigned_abs(), "delivery");
        match dry_run {
            true => say!("{deliveries} would be cancelled"),
            false => say!("{deliveries} cancelled; kept, `certhookd replay --state cancelled` sends them"),
        }
    }
    Ok(())
}
