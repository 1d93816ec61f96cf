//! `certhookd backfill`: an endpoint gets to know what its organization has.

use anyhow::bail;
use bson::{DateTime, doc};
use tokio_util::sync::CancellationToken;

use super::ask::{OperationArgs, ask, instant, resolve};
use crate::config::Config;
use crate::model::count;
use crate::operations::Kind;
use crate::service::one_line;
use crate::store::Store;

/// What to send, and to whom.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The endpoint, as `ORGANIZATION/ENDPOINT`, or by its id alone.
    #[arg(long)]
    endpoint: String,
    /// This certificate alone.
    #[arg(long)]
    certificate: Option<String>,
    /// Certificates awarded, or expired, then or later, e.g. 2026-11-24T00:00:00Z.
    #[arg(long, value_parser = instant)]
    from: Option<DateTime>,
    /// Certificates awarded, or expired, before then.
    #[arg(long, value_parser = instant)]
    to: Option<DateTime>,
    /// Those that have expired too, as `certificate_expired`.
    #[arg(long)]
    include_expired: bool,
    /// Deliveries per second, at most.
    #[arg(long, value_name = "RATE", default_value_t = 100.0)]
    rate: f64,
    /// Count what would go out; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: OperationArgs,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let done = backfill(&store, config, &args).await;
    store.close().await;
    if let Some(result) = done? {
        let number = |name| result.get_i64(name).map(i64::unsigned_abs);
        let (deliveries, known, skipped) = (number("deliveries")?, number("known")?, number("skipped")?);
        if let Some(id) = args.certificate.filter(|_| deliveries + known + skipped == 0) {
            bail!("no certificate {} of the endpoint's organization", one_line(&id));
        }
        let verb = if args.dry_run {
            "would be sent"
        } else if deliveries == 1 {
            "waits after what happens now"
        } else {
            "wait after what happens now"
        };
        say!(
            "{} {verb}; {known} known already, {} skipped",
            count(deliveries, "delivery"),
            count(skipped, "certificate")
        );
    }
    Ok(())
}

async fn backfill(store: &Store, config: &Config, args: &Args) -> anyhow::Result<Option<bson::Document>> {
    let endpoint = resolve(store, config, Some(args.endpoint.clone()), None).await?;
    let selection = doc! { "endpoint": endpoint, "certificate": &args.certificate, "from": args.from, "to": args.to };
    let options = doc! { "ratePerSecond": args.rate, "includeExpired": args.include_expired, "dryRun": args.dry_run };
    ask(store, Kind::Backfill, selection, options, &args.common).await
}
