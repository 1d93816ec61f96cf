//! `certhookd hold` and `certhookd release`.

use anyhow::{Context, ensure};
use bson::{DateTime, Document, doc};
use tokio_util::sync::CancellationToken;

use super::ask::{HoldTarget, OperationArgs, ask, instant, resolve};
use crate::config::Config;
use crate::model::count;
use crate::operations::{Holds, Kind};
use crate::service::one_line;
use crate::store::Store;

/// Have deliveries wait.
#[derive(Debug, clap::Args)]
pub(super) struct Hold {
    #[command(flatten)]
    target: HoldTarget,
    /// Until then, e.g. 2026-11-24T06:00:00Z; without it until a release.
    #[arg(long, value_parser = instant)]
    until: Option<DateTime>,
    #[command(flatten)]
    common: OperationArgs,
}

/// Have deliveries that wait go out.
#[derive(Debug, clap::Args)]
pub(super) struct Release {
    #[command(flatten)]
    target: HoldTarget,
    #[command(flatten)]
    common: OperationArgs,
}

pub(super) async fn hold(config: &Config, args: Hold) -> anyhow::Result<()> {
    let options = args.until.map_or_else(Document::new, |until| doc! { "until": until });
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let done = ask_for(&store, config, Kind::Hold, args.target, options, &args.common).await;
    store.close().await;
    if let Some(result) = done? {
        let seen = seen_by(result.get_i64("instances")?.unsigned_abs());
        let target = one_line(result.get_str("target")?);
        say!("{target} is held: {seen}, nothing begins any more; what was in flight finishes");
    }
    Ok(())
}

fn seen_by(instances: u64) -> String {
    let have = if instances == 1 { "has" } else { "have" };
    format!("{} {have} seen it", count(instances, "instance"))
}

pub(super) async fn release(config: &Config, args: Release) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let done = ask_for(&store, config, Kind::Release, args.target, doc! {}, &args.common).await;
    let left = match &done {
        Ok(Some(_)) => still_held(&store).await,
        _ => Ok(Vec::new()),
    };
    store.close().await;
    if let Some(result) = done? {
        say!("{} is released", one_line(result.get_str("target")?));
        left?.iter().for_each(|line| say!("{line}"));
    }
    Ok(())
}

async fn ask_for(
    store: &Store,
    config: &Config,
    kind: Kind,
    target: HoldTarget,
    options: Document,
    common: &OperationArgs,
) -> anyhow::Result<Option<Document>> {
    let endpoint = resolve(store, config, target.endpoint, target.organization.as_deref()).await?;
    let mut selection = doc! {};
    if target.all {
        selection.insert("all", true);
    }
    selection.extend(endpoint.map(|endpoint| ("endpoint".to_owned(), endpoint.into())));
    selection.extend(
        target
            .organization
            .map(|organization| ("organization".to_owned(), organization.into())),
    );
    ensure!(!selection.is_empty(), "nothing is chosen");
    ask(store, kind, selection, options, common).await
}

/// A line for each hold that lasts: a release of one endpoint leaves its organization held.
async fn still_held(store: &Store) -> anyhow::Result<Vec<String>> {
    let holds = Holds::default();
    holds.load(store).await.context("what is still held can't be read")?;
    let now = store.database_time().await?;
    let line =
        |hold: &crate::operations::Hold| format!("{} is held {}", one_line(&hold.target), one_line(hold.describe()));
    Ok(holds.lasting(now).iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_seen_it_is_a_sentence() {
        for (instances, sentence) in [
            (0, "0 instances have seen it"),
            (1, "1 instance has seen it"),
            (2, "2 instances have seen it"),
        ] {
            assert_eq!(seen_by(instances), sentence);
        }
    }
}
