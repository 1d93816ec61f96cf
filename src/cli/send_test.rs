//! `certhookd send-test`: a sample event, sent as every event is, but without the outbox.

use std::process::ExitCode;

use bson::DateTime;
use http::HeaderValue;
use tokio_util::sync::CancellationToken;

use super::target;
use crate::config::Config;
use crate::model::{EventType, Message, Outcome};
use crate::operations::{TEST_HEADER, sample};
use crate::platform::Endpoint;
use crate::run::Settings;
use crate::sender::{Preview, ShownResponse};
use crate::service::one_line;
use crate::store::Store;

/// Under the first column of what is printed.
const INDENT: &str = "          ";

/// What to send, and to whom.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The endpoint, by its id or as `ORGANIZATION/ENDPOINT`.
    #[arg(long, value_name = "ID")]
    endpoint: String,
    /// The type of event; without it the first one that the endpoint is subscribed to.
    #[arg(long, value_name = "TYPE", value_parser = super::event_type)]
    event: Option<EventType>,
    /// Show the request with its signature; send nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Sends it and prints what went out and what came back. Succeeds on a 2xx alone.
pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let store = Store::new(&config.mongodb, CancellationToken::new()).await?;
    let read = read_endpoint(&store, config, &args.endpoint).await;
    store.close().await;
    let (mut endpoint, now) = read?;
    let event_type = args.event.or(endpoint.event_types.first().copied());
    let event_type = event_type.unwrap_or(EventType::CertificateExpired);
    introduce(&endpoint, event_type);
    endpoint.headers.insert(TEST_HEADER, HeaderValue::from_static("true"));
    let message = sample(&endpoint, event_type, now).map_err(anyhow::Error::msg)?;
    let client = Settings::new(config)?.client.get();
    match client.preview(&endpoint, &message, now) {
        Ok(preview) => show_request(&preview, &message),
        Err(reason) => anyhow::bail!("nothing was sent: {reason}"),
    }
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let (outcome, response) = client.inspect(&endpoint, &message, now).await;
    if let Some(response) = response {
        show_response(&response);
    }
    Ok(conclude(&outcome, &endpoint))
}

/// The endpoint as it is configured, and the time by MongoDB's clock, which the daemon goes by.
async fn read_endpoint(store: &Store, config: &Config, wanted: &str) -> anyhow::Result<(Endpoint, DateTime)> {
    let now = super::hello(store).await?.get_datetime("localTime").copied()?;
    let directory = super::directory(store, config).await?;
    Ok((target::find(&directory, wanted)?, now))
}

fn introduce(endpoint: &Endpoint, event_type: EventType) {
    say!("endpoint  {}  {}", endpoint.key, one_line(&endpoint.name));
    if !endpoint.enabled {
        say!("{INDENT}it is switched off: events do not go there");
    } else if !endpoint.wants(event_type) {
        say!("{INDENT}it is not subscribed to {event_type}: such events do not go there");
    }
}

fn show_request(request: &Preview, message: &Message) {
    show("request", &one_line(&request.line), &request.headers);
    say!("\n{INDENT}{}", one_line(String::from_utf8_lossy(&message.body)));
}

fn show_response(response: &ShownResponse) {
    show(
        "response",
        &format!("{:?} {}", response.version, response.status),
        &response.headers,
    );
    if !response.body.is_empty() {
        say!("\n{INDENT}{}", response.body);
    }
}

fn show(what: &str, line: &str, headers: &[(String, String)]) {
    say!("\n{what:<8}  {line}");
    for (name, value) in headers {
        say!("{INDENT}{name}: {}", one_line(value));
    }
}

fn conclude(outcome: &Outcome, endpoint: &Endpoint) -> ExitCode {
    let (verdict, elapsed) = match outcome {
        Outcome::Delivered { elapsed, .. } => ("delivered", Some(elapsed)),
        Outcome::TransientFailure(failure) | Outcome::Gone(failure) | Outcome::PermanentFailure(failure) => {
            (&*failure.reason, Some(&failure.elapsed))
        }
        Outcome::Cancelled { reason } => (&**reason, None),
        Outcome::NotSent => ("interrupted", None),
        Outcome::ProxyUnavailable { reason } => (&**reason, None),
    };
    say!("\nresult    {}", one_line(verdict));
    if let Some(elapsed) = elapsed {
        let (took, timeout) = (elapsed.as_millis(), endpoint.timeout.as_millis());
        say!("time      {took} ms; the endpoint's timeout is {timeout} ms");
    }
    match outcome {
        Outcome::Delivered { .. } => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
