//! `certhookd replay`: sends again what has ended.

use anyhow::{Context, bail, ensure};
use bson::DateTime;
use tokio_util::sync::CancellationToken;

use super::{Usage, table, target};
use crate::config::Config;
use crate::model::{EndpointKey, EventType, count};
use crate::outbox::{self, LookedUp, Replayable, Selection};
use crate::platform::Directory;
use crate::service::one_line;
use crate::store::Store;

/// A dry run shows no more than this.
const SHOWN: usize = 100;

/// What to send again; what is given must all hold.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A delivery (`EVENT/ORGANIZATION/ENDPOINT`), an event (then every delivery of it), or the `_id` of a document in the outbox.
    #[arg(long)]
    id: Option<String>,
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
            || self.organization.is_some()
            || self.event_type.is_some()
            || self.from.is_some()
            || self.to.is_some();
        ensure!(
            chosen || self.all,
            Usage("nothing is chosen: say which deliveries, or --all".into())
        );
        Ok(Selection {
            id: self.id,
            endpoint: self.endpoint,
            organization: self.organization,
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
    let done = replay(&store, config, selection, dry_run).await;
    store.close().await;
    done
}

async fn replay(store: &Store, config: &Config, mut selection: Selection, dry_run: bool) -> anyhow::Result<()> {
    if selection.endpoint.is_some() || selection.organization.is_some() {
        let directory = super::directory(store, config).await?;
        let (endpoint, organization) = (selection.endpoint.as_deref(), selection.organization.as_deref());
        target::check(store, &directory, endpoint, organization).await?;
    }
    if let Some(id) = selection.endpoint.take_if(|endpoint| !endpoint.contains('/')) {
        let directory = super::directory(store, config).await?;
        selection.endpoint = Some(configured(&directory, &id)?.as_str().to_owned());
    }
    let hello = super::hello(store).await?;
    let now = *hello.get_datetime("localTime")?;
    let (first, number) = match dry_run {
        true => selection.preview(store, now, SHOWN).await?,
        false => (Vec::new(), selection.replay(store, now).await?),
    };
    if let Some(id) = selection.id.as_deref().filter(|_| number == 0) {
        bail!(why_none(store, id, &selection.states).await?);
    }
    let deliveries = count(number, "delivery");
    match (dry_run, number) {
        (true, _) => {
            show(&first);
            say!("{deliveries} would be sent again");
        }
        (false, 1) => say!("{deliveries} is pending again"),
        (false, _) => say!("{deliveries} are pending again"),
    }
    Ok(())
}

/// Why nothing is sent again of what the id names.
async fn why_none(store: &Store, id: &str, states: &[String]) -> anyhow::Result<String> {
    let shown = one_line(id);
    Ok(match outbox::look_up(store, id).await? {
        LookedUp::States(found) => format!(
            "nothing of {shown} is {}, or not of what was chosen besides: it is {}",
            states.join(" or "),
            found.join(" and ")
        ),
        LookedUp::Nearest(Some(nearest)) => format!("the outbox holds no {shown}; the nearest: {nearest}"),
        LookedUp::Nearest(None) => format!("the outbox holds no {shown}"),
    })
}

/// The endpoint with that id, which is an ObjectId as a rule: then there is one at most.
fn configured(directory: &Directory, id: &str) -> anyhow::Result<EndpointKey> {
    let email = directory.email().then(EndpointKey::email);
    let known = directory.keys().into_iter().chain(email);
    let mut found: Vec<_> = known.filter(|key| key.endpoint() == id).collect();
    let Some(key) = found.pop() else {
        bail!("no endpoint {id} is configured: name one that was deleted as ORGANIZATION/{id}");
    };
    ensure!(
        found.is_empty(),
        "several organizations have an endpoint {id}: name it as ORGANIZATION/{id}"
    );
    Ok(key)
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

fn instant(text: &str) -> anyhow::Result<DateTime> {
    DateTime::parse_rfc3339_str(text).context("expected an instant such as 2026-11-24T00:00:00Z")
}
