//! `certhookd show`: all that is known of a certificate, an event or a delivery.

use std::process::ExitCode;

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use super::endpoints::Endpoints;
use crate::config::Config;
use crate::history::{self, Certificate, Delivery, Event, History, instant};
use crate::store::Store;

/// What to show.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A certificate's id, an event's (the `webhook-id`), a delivery (`EVENT/ORGANIZATION/ENDPOINT`), or the `_id` of a document in the
    /// outbox.
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Succeeds if anything is known.
pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let found = find(&store, config, &args.id).await;
    store.close().await;
    let found = found?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&found)?);
    }
    if !found.is_known() {
        bail!(found.why_unknown());
    }
    if !args.json {
        print(&found);
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(store: &Store, config: &Config, id: &str) -> anyhow::Result<History> {
    super::hello(store).await?;
    let endpoints = Endpoints::new(store, config);
    Ok(history::load(store, &endpoints, config, id).await?)
}

fn print(found: &History) {
    if let Some(certificate) = &found.certificate {
        print_certificate(certificate);
    }
    for note in &found.notes {
        say!("note         {}", note.text);
    }
    found.events.iter().for_each(print_event);
    for odd in &found.odd {
        say!("odd          {}: {}", odd.document, odd.why);
    }
}

fn print_certificate(certificate: &Certificate) {
    say!("certificate  {}  {}", certificate.id, certificate.facts());
}

fn print_event(event: &Event) {
    say!(
        "\nevent        {}  happened {}",
        event.event,
        instant(event.occurred_at)
    );
    event.deliveries.iter().for_each(print_delivery);
}

fn print_delivery(delivery: &Delivery) {
    let name = if delivery.name.is_empty() {
        String::new()
    } else {
        format!("  {}", delivery.name)
    };
    say!("  endpoint   {}/{}{name}", delivery.organization, delivery.endpoint);
    say!("    {}", delivery.summary());
    for line in delivery.lines() {
        say!("    {}  {}", instant(line.at), line.text);
        if let Some(response) = line.response {
            say!("      response  {response}");
        }
    }
    say!("    next     {}", delivery.next.text);
}
