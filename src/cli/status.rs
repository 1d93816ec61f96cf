//! `certhookd status`: what MongoDB knows, for people and as JSON.

use bson::DateTime;
use tokio_util::sync::CancellationToken;

use super::table;
use crate::config::Config;
use crate::service::one_line;
use crate::status::{DAYS, Endpoint, Instance, Scan, Status, gather};
use crate::store::Store;

/// Asks and prints.
pub(super) async fn run(config: &Config, json: bool) -> anyhow::Result<()> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let status = ask(&store, config).await;
    store.close().await;
    let status = status?;
    if json {
        say!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(())
}

async fn ask(store: &Store, config: &Config) -> anyhow::Result<Status> {
    let directory = super::directory(store, config).await?;
    Ok(gather(store, &directory).await?)
}

fn print(status: &Status) {
    table::print(
        &["instance", "host", "pid", "version", "state", "seen", "lease"],
        &status.instances.iter().map(instance).collect::<Vec<_>>(),
    );
    let outbox = &status.outbox;
    say!("\noutbox     {} pending, {} dead letters", outbox.pending, outbox.dead);
    let oldest = outbox.oldest.map(|age| format!("due for {} s", age.as_secs()));
    say!("oldest     {}", oldest.as_deref().unwrap_or("nothing is due"));
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
            "not sent   {unconfigured} events of organizations that have no configuration, since these instances started"
        );
    }
    match &status.stream {
        Some(stream) if stream.catching_up => say!("stream     catching up, at {}", iso(stream.last_event_at)),
        Some(stream) => say!("stream     at {}", iso(stream.last_event_at)),
        None => say!("stream     never started"),
    }
    say!("\nwhat was delivered, failed and cancelled in the last {DAYS} days; what is pending and dead is as of now");
    table::print(
        &[
            "organization",
            "endpoint",
            "name",
            "state",
            "delivered",
            "failed attempts",
            "pending",
            "dead letters",
            "cancelled",
        ],
        &status.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    );
    for endpoint in status.endpoints.iter().filter(|endpoint| !endpoint.warnings.is_empty()) {
        say!(
            "\n{}/{} is not quite served as it is configured:",
            endpoint.organization, endpoint.endpoint
        );
        endpoint
            .warnings
            .iter()
            .for_each(|warning| say!("  {}", one_line(warning)));
    }
}

fn print_scan(scan: &Scan) {
    say!(
        "last scan  {}: {} found, {} deliveries, {} rejected, {} ms",
        iso(scan.at),
        scan.found,
        scan.deliveries,
        scan.rejected,
        scan.duration_ms
    );
    if let Some(last) = scan.found_last.as_ref().filter(|last| last.at < scan.at) {
        say!(
            "last found {}: {} certificates, {} deliveries",
            iso(last.at),
            last.found,
            last.deliveries
        );
    }
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
