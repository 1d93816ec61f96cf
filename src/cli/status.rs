//! `certhookd status`: what MongoDB knows, for people and as JSON. Trouble comes first.

use anyhow::ensure;
use bson::DateTime;
use tokio_util::sync::CancellationToken;

use super::{table, target};
use crate::config::Config;
use crate::model::count;
use crate::service::one_line;
use crate::status::{DAYS, Endpoint, Instance, Operation, Scan, Status, gather};
use crate::store::Store;

/// Without a choice: all endpoints, if there are at most this many; else only those in trouble, at most this many.
const LISTED: usize = 20;

/// What to show of the endpoints; what is given must all hold.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Only endpoints that are out of service or failing, have dead letters, or have settings that are not applied.
    #[arg(long)]
    trouble: bool,
    /// Only endpoints of this organization.
    #[arg(long)]
    organization: Option<String>,
    /// Only this endpoint: its id, or `ORGANIZATION/ENDPOINT`.
    #[arg(long)]
    endpoint: Option<String>,
}

impl Args {
    fn matches(&self, organization: &str, endpoint: &str) -> bool {
        let is_organization = self.organization.as_ref().is_none_or(|wanted| wanted == organization);
        let is_endpoint = self
            .endpoint
            .as_ref()
            .is_none_or(|wanted| wanted == endpoint || *wanted == format!("{organization}/{endpoint}"));
        is_organization && is_endpoint
    }

    fn is_choice(&self) -> bool {
        self.trouble || self.organization.is_some() || self.endpoint.is_some()
    }

    /// Keeps what was asked for, the worst first.
    fn filter(&self, status: &mut Status) {
        status
            .endpoints
            .retain(|one| self.matches(&one.organization, &one.endpoint) && (!self.trouble || one.needs_a_look()));
        // The sort is stable: endpoints of one severity stay sorted by organization.
        status.endpoints.sort_by_key(Endpoint::severity);
        for heads in [&mut status.dead_letters, &mut status.next] {
            heads.retain(|head| self.matches(&head.organization, &head.endpoint));
        }
    }
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let status = ask(&store, config, &args).await;
    store.close().await;
    let status = status?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status, args.is_choice());
    }
    Ok(())
}

async fn ask(store: &Store, config: &Config, args: &Args) -> anyhow::Result<Status> {
    let directory = super::directory(store, config).await?;
    let mut status = gather(store, &directory, config.delivery.redrive_for).await?;
    let of_organization = |wanted: &String| status.endpoints.iter().any(|one| one.organization == *wanted);
    if let Some(organization) = args.organization.as_ref().filter(|wanted| !of_organization(wanted)) {
        anyhow::bail!(target::unknown_organization(&directory, organization));
    }
    let is_known = status
        .endpoints
        .iter()
        .any(|one| args.matches(&one.organization, &one.endpoint));
    if let Some(endpoint) = &args.endpoint {
        ensure!(is_known, "{}", target::unknown(&directory, endpoint));
    }
    args.filter(&mut status);
    Ok(status)
}

fn print(status: &Status, chosen: bool) {
    table::print(
        &["instance", "host", "pid", "version", "state", "seen", "lease"],
        &status.instances.iter().map(instance).collect::<Vec<_>>(),
    );
    let outbox = &status.outbox;
    let dead = count(outbox.dead.unsigned_abs(), "dead letter");
    say!("\noutbox     {} pending, {dead}", outbox.pending);
    let oldest = outbox.oldest.map(|age| format!("due for {} s", age.as_secs()));
    say!("oldest     {}", oldest.as_deref().unwrap_or("nothing is due"));
    print_sources(status);
    print_operations(status);
    print_endpoints(&status.endpoints, chosen);
}

fn print_operations(status: &Status) {
    for hold in &status.holds {
        say!("held       {} {}", one_line(&hold.target), one_line(hold.describe()));
    }
    if status.operations.is_empty() {
        return;
    }
    say!("\nlast operations");
    let row = |one: &Operation| {
        let of = one.of.map_or_else(String::new, |of| format!(" of {of}"));
        let at = one.finished_at.or(one.started_at).map_or_else(String::new, iso);
        vec![
            one.id.clone(),
            one.kind.clone(),
            one.state.clone(),
            format!("{}{of}", one.done),
            at,
            one.by.clone(),
            one.error.clone().unwrap_or_else(|| one.reason.clone()),
        ]
    };
    let rows: Vec<_> = status.operations.iter().map(row).collect();
    table::print(
        &[
            "operation",
            "kind",
            "state",
            "deliveries",
            "at",
            "by",
            "reason or error",
        ],
        &rows,
    );
}

fn print_sources(status: &Status) {
    match &status.last_scan {
        Some(scan) => print_scan(scan),
        None => say!("last scan  never"),
    }
    let unconfigured: i64 = status
        .instances
        .iter()
        .map(|instance| instance.unconfigured_events)
        .sum();
    if unconfigured > 0 {
        say!(
            "not sent   {} of organizations that have no configuration, since these instances started",
            count(unconfigured.unsigned_abs(), "event")
        );
    }
    match &status.stream {
        Some(stream) if stream.catching_up => say!("stream     catching up, at {}", iso(stream.last_event_at)),
        Some(stream) => say!("stream     at {}", iso(stream.last_event_at)),
        None => say!("stream     never started"),
    }
}

fn print_scan(scan: &Scan) {
    say!(
        "last scan  {}: {} found, {}, {} rejected, {} ms",
        iso(scan.at),
        scan.found,
        count(scan.deliveries.unsigned_abs(), "delivery"),
        scan.rejected,
        scan.duration_ms
    );
    if let Some(last) = scan.found_last.as_ref().filter(|last| last.at < scan.at) {
        say!(
            "last found {}: {}, {}",
            iso(last.at),
            count(last.found.unsigned_abs(), "certificate"),
            count(last.deliveries.unsigned_abs(), "delivery")
        );
    }
}

/// The worst first; without a choice of the user at most [`LISTED`].
fn print_endpoints(endpoints: &[Endpoint], chosen: bool) {
    let all = endpoints.len();
    let troubled = endpoints.iter().filter(|one| one.needs_a_look()).count();
    let shown = if chosen || all <= LISTED {
        all
    } else {
        troubled.min(LISTED)
    };
    say!(
        "\n{}, {troubled} in trouble; delivered, failed and cancelled are those of the last {DAYS} days, pending and dead are as of now",
        count(all as u64, "endpoint")
    );
    print_table(&endpoints[..shown]);
    endpoints[..shown].iter().for_each(print_warnings);
    if troubled > shown {
        say!("{} more in trouble: --trouble lists all", troubled - shown);
    }
    let well = all - troubled;
    if shown < all && well > 0 {
        say!(
            "{} without trouble: --organization, --endpoint and --json show them",
            count(well as u64, "endpoint")
        );
    }
}

fn print_table(endpoints: &[Endpoint]) {
    let header = [
        "organization",
        "endpoint",
        "name",
        "state",
        "delivered",
        "failed attempts",
        "pending",
        "dead letters",
        "cancelled",
    ];
    let rows: Vec<_> = endpoints.iter().map(endpoint).collect();
    let notes: Vec<_> = endpoints.iter().map(Endpoint::trouble).collect();
    table::print_with_notes(&header, &rows, &notes);
}

fn print_warnings(endpoint: &Endpoint) {
    if endpoint.warnings.is_empty() {
        return;
    }
    let (organization, id) = (&endpoint.organization, &endpoint.endpoint);
    say!("\nthe configuration of {organization}/{id} needs attention:");
    let warnings = endpoint.warnings.iter();
    warnings.for_each(|warning| say!("  {}", one_line(warning)));
}

fn iso(at: DateTime) -> String {
    at.try_to_rfc3339_string().unwrap_or_default()
}

fn instance(instance: &Instance) -> Vec<String> {
    let lease = if instance.holds_lease { "source" } else { "" };
    vec![
        instance.id.clone(),
        instance.host.clone(),
        instance.pid.to_string(),
        instance.version.clone(),
        instance.state.to_owned(),
        format!("{} s ago", instance.seen_s_ago),
        lease.to_owned(),
    ]
}

fn endpoint(one: &Endpoint) -> Vec<String> {
    let counts = [one.delivered, one.failed_attempts, one.pending, one.dead, one.cancelled];
    let texts = [
        one.organization.clone(),
        one.endpoint.clone(),
        one.name.clone(),
        if one.warnings.is_empty() {
            one.state.to_owned()
        } else {
            format!("{}, see below", one.state)
        },
    ];
    texts.into_iter().chain(counts.map(|count| count.to_string())).collect()
}
