//! `certhookd erase`: payloads and bodies of responses of a user or a certificate go.

use bson::doc;
use tokio_util::sync::CancellationToken;

use super::ask::{OperationArgs, ask};
use crate::config::Config;
use crate::model::count;
use crate::operations::Kind;
use crate::store::Store;

/// Whose.
#[derive(Debug, clap::Args)]
#[group(id = "subject", required = true, multiple = false, args = ["user", "certificate"])]
pub(super) struct Args {
    /// A user: the `_userId` of certificates.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    user: Option<String>,
    /// A certificate: its `_id`.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    certificate: Option<String>,
    /// Count what would be erased; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: OperationArgs,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let mut selection = doc! {};
    for (name, id) in [("user", args.user), ("certificate", args.certificate)] {
        selection.extend(id.map(|id| (name.to_owned(), id.into())));
    }
    let asked = ask(
        &store,
        Kind::Erase,
        selection,
        doc! { "dryRun": args.dry_run },
        &args.common,
    )
    .await;
    store.close().await;
    if let Some(result) = asked? {
        let number = |name| result.get_i64(name).unwrap_or(0).unsigned_abs();
        let [deliveries, waited] = ["deliveries", "cancelled"].map(|name| count(number(name), "delivery"));
        match args.dry_run {
            true => say!("{deliveries} would be erased, of which {waited} would be cancelled"),
            false => say!("{deliveries} erased, of which {waited} cancelled"),
        }
    }
    Ok(())
}
