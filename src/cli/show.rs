//! `certhookd show`: all that is known of a certificate, an event or a delivery.

use std::process::ExitCode;

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::history::{self, Attempt, Certificate, Delivery, Event, History, Replay};
use crate::store::Store;

/// Of what.
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
    let directory = super::directory(store, config).await?;
    Ok(history::find(store, &directory, config, id).await?)
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
    let on = |at: Option<_>, what: &str| at.map(|at| format!("{what} {}", instant(Some(at))));
    let facts = [
        certificate.organization.as_ref().map(|id| format!("organization {id}")),
        on(certificate.creation_date, "awarded"),
        on(certificate.expires, "expires"),
        certificate.expiry_reminder_sent.then(|| "marked".to_owned()),
        certificate.disabled.then(|| "revoked".to_owned()),
    ];
    let facts: Vec<_> = facts.into_iter().flatten().collect();
    say!("certificate  {}  {}", certificate.id, facts.join(", "));
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
    let ended = delivery
        .ended_at
        .map(|at| format!(" {}", instant(Some(at))))
        .unwrap_or_default();
    let reason = delivery
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let attempts = crate::model::count(delivery.attempts.unsigned_abs(), "attempt");
    say!("    {}{ended}{reason}  ({attempts})", delivery.state);
    let mut lines: Vec<_> = delivery
        .history
        .iter()
        .map(|attempt| (attempt.at, attempt_line(attempt)))
        .collect();
    lines.extend(delivery.replays.iter().map(|replay| (replay.at, replay_line(replay))));
    lines.sort_by_key(|(at, _)| *at);
    for (at, line) in lines {
        say!("    {}  {line}", instant(at));
    }
    say!("    next     {}", delivery.next.text);
}

fn attempt_line(attempt: &Attempt) -> String {
    let number = attempt.n.map_or_else(String::new, |n| format!(" {n}"));
    let what = match (&attempt.error, attempt.status) {
        (Some(error), _) => error.clone(),
        (None, Some(status)) => format!("status {status}"),
        (None, None) => "nothing is known of it".to_owned(),
    };
    let by = attempt.instance.as_ref().map(|id| format!("by {id}"));
    let took = attempt.ms.map(|ms| format!("{ms} ms"));
    let connected = attempt.connect_ms.map(|ms| format!("connected in {ms} ms"));
    let again = attempt
        .redriven
        .then(|| "a dead letter that went out by itself".to_owned());
    let facts: Vec<_> = [took, connected, by, again].into_iter().flatten().collect();
    let ended = attempt
        .reason
        .as_ref()
        .map(|reason| format!("; a dead letter: {reason}"))
        .unwrap_or_default();
    let response = attempt
        .response
        .as_ref()
        .map(|text| format!("\n      response  {text}"))
        .unwrap_or_default();
    format!("attempt{number}: {what} ({}){ended}{response}", facts.join(", "))
}

fn replay_line(replay: &Replay) -> String {
    let state = replay.state.as_deref().unwrap_or("in an unknown state");
    let after = replay
        .attempts
        .map(|attempts| format!(" after {attempts} attempts"))
        .unwrap_or_default();
    let reason = replay
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    format!("replayed; it was {state}{after}{reason}")
}

fn instant(at: Option<bson::DateTime>) -> String {
    at.and_then(|at| at.try_to_rfc3339_string().ok())
        .unwrap_or_else(|| "at an unknown time".into())
}
