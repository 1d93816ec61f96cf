//! Asking the daemon for something: `replay`, `hold`, `release`, `backfill`, `cancel` and `erase` insert an operation and follow it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bson::{DateTime, Document, doc};

use crate::config::Config;
use crate::model::EventType;
use crate::operations::{self, Followed, Kind};
use crate::store::Store;

use super::{Usage, target};

/// How often the progress of a long operation is printed.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// The options that every operation takes.
#[derive(Debug, clap::Args)]
pub(super) struct OperationArgs {
    /// Who asks, for the audit trail; without it, this login's name.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Why, for the audit trail.
    #[arg(long, default_value = "")]
    reason: String,
    /// Follow the operation until it has ended; `--wait=false` prints its id and leaves it to the daemon.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
}

/// An endpoint, an organization or all: one of the three.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct HoldTarget {
    /// An endpoint, as `ORGANIZATION/ENDPOINT`, or by its id alone while it is configured.
    #[arg(long)]
    pub(super) endpoint: Option<String>,
    /// An organization.
    #[arg(long)]
    pub(super) organization: Option<String>,
    /// Everything.
    #[arg(long)]
    pub(super) all: bool,
}

/// Which deliveries; what is given must all hold.
#[derive(Debug, clap::Args)]
pub(super) struct DeliveryChoice {
    /// A delivery (`EVENT/ORGANIZATION/ENDPOINT`), an event (then every delivery of it), or the `_id` of a document in the outbox.
    #[arg(long)]
    pub(super) id: Option<String>,
    /// A certificate.
    #[arg(long)]
    pub(super) certificate: Option<String>,
    /// An endpoint, as `ORGANIZATION/ENDPOINT`, or by its id alone while it is configured.
    #[arg(long)]
    pub(super) endpoint: Option<String>,
    /// An organization.
    #[arg(long)]
    pub(super) organization: Option<String>,
    /// A type of event.
    #[arg(long, value_parser = super::event_type)]
    pub(super) event_type: Option<EventType>,
    /// What happened then or later, e.g. 2026-11-24T00:00:00Z.
    #[arg(long, value_parser = instant)]
    pub(super) from: Option<DateTime>,
    /// What happened before then.
    #[arg(long, value_parser = instant)]
    pub(super) to: Option<DateTime>,
    /// Every delivery in that state, without any other choice.
    #[arg(long)]
    pub(super) all: bool,
}

impl DeliveryChoice {
    /// The `selection` of an operation, of deliveries in these states.
    ///
    /// # Errors
    /// Nothing is chosen.
    pub(super) fn selection(&self, states: &[String]) -> anyhow::Result<Document> {
        let mut selection = doc! {};
        let mut add =
            |name: &str, value: Option<bson::Bson>| selection.extend(value.map(|value| (name.to_owned(), value)));
        let text = |text: &Option<String>| text.clone().map(Into::into);
        add("delivery", text(&self.id));
        add("certificate", text(&self.certificate));
        add("endpoint", text(&self.endpoint));
        add("organization", text(&self.organization));
        add(
            "eventType",
            self.event_type.map(|event_type| event_type.as_str().into()),
        );
        add("from", self.from.map(Into::into));
        add("to", self.to.map(Into::into));
        if selection.is_empty() && !self.all {
            bail!(Usage("nothing is chosen: say which deliveries, or --all".into()));
        }
        if selection.is_empty() {
            selection.insert("all", true);
        }
        selection.insert("states", states);
        Ok(selection)
    }
}

pub(super) fn instant(text: &str) -> anyhow::Result<DateTime> {
    DateTime::parse_rfc3339_str(text).context("expected an instant such as 2026-11-24T00:00:00Z")
}

/// Reads the configuration of the endpoints that are meant, and returns the endpoint as `ORGANIZATION/ENDPOINT` where it is named by its id alone.
///
/// # Errors
/// There is no such endpoint or organization: the nearest is named. Several organizations have that endpoint.
pub(super) async fn resolve(
    store: &Store,
    config: &Config,
    endpoint: Option<String>,
    organization: Option<&str>,
) -> anyhow::Result<Option<String>> {
    if endpoint.is_none() && organization.is_none() {
        return Ok(None);
    }
    super::hello(store).await?;
    let directory = target::check(store, config, endpoint.as_deref(), organization).await?;
    match endpoint {
        Some(id) if !id.contains('/') => {
            let key = directory.key_of(&id).map_err(anyhow::Error::msg)?;
            Ok(Some(key.as_str().to_owned()))
        }
        endpoint => Ok(endpoint),
    }
}

/// Inserts an operation, and follows it. Returns its result; `None` if it was not waited for.
pub(super) async fn ask(
    store: &Store,
    kind: Kind,
    selection: Document,
    options: Document,
    common: &OperationArgs,
) -> anyhow::Result<Option<Document>> {
    super::hello(store).await?;
    let by = common.by.clone().unwrap_or_else(login);
    let document = doc! {
        "kind": kind.as_str(), "selection": selection, "options": options, "by": by, "reason": &common.reason,
    };
    let id = operations::insert(store, document)
        .await
        .context("the operation can't be inserted")?;
    if !common.wait {
        say!("operation {id} is asked for");
        return Ok(None);
    }
    let mut told = Instant::now();
    let progress = |done, of: Option<i64>| {
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let of = of.map_or_else(String::new, |of| format!(" of {of}"));
            say!("{done}{of} deliveries so far");
        }
    };
    match operations::follow(store, id, progress).await? {
        Followed::Done(result) => Ok(Some(result)),
        Followed::Ended(how) => bail!("operation {id}: {how}"),
        Followed::NoInstance => bail!("no instance is running: operation {id} waits until one does"),
    }
}

/// `USER@HOST`.
fn login() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let user = user.map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name);
    format!("{user}@{}", super::host())
}
