//! `certhookd demo`: the whole pipeline at work, over a MongoDB and a receiver that live as long as this process.

mod keep;
mod story;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use bson::Document;
use http::StatusCode;
use mongodb::Collection;
use tokio_util::sync::CancellationToken;

use super::sandbox::{Sandbox, add};
use crate::config::{Config, Credentials, Faults};
use crate::model::{Clock, EventType};
use crate::run::Running;
use crate::sandbox::{Receiver, Response};
use crate::service::signals::Signals;
use story::Story;

/// Certificates of each kind, one per organization.
const EACH: usize = 6;

/// Within this time after the start certificates expire, one after the other.
const EXPIRING_WITHIN: Duration = Duration::from_secs(12);

/// Between two awards.
const AWARD_EVERY: Duration = Duration::from_secs(2);

/// The endpoint that fails twice. It expects one event only, so both failures are of that one.
const FLAKY: &str = "/horizon/lms";

/// What has not arrived by then is missing.
const LIMIT: Duration = Duration::from_secs(60);

const INTRO: &str = "\
certhookd demo: certificates in MongoDB become webhooks. Six sample organizations, about 20 seconds; Ctrl-C ends it.

  6 certificates have expired already    expired    the first scan finds them
  6 expire while you watch               expired    a scan every second finds each when it has expired
  6 are awarded while you watch          completed  the change stream yields each at once

Each line below is a request as it reached an endpoint, in seconds since the start. What to look at:
  /horizon/lms  responds with 503 twice and recovers: the same webhook-id, attempt 3; no other waits for it
  /foods/old    is switched off and stays silent; /harbour/awards wants awards only

Starting a MongoDB of its own (where none is installed, one is fetched once)...
";

/// How to end it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// When all has arrived, leave everything running until Ctrl-C, and say what to try next.
    #[arg(long)]
    keep: bool,
}

/// Plays it to the end, to Ctrl-C or to the limit, and leaves nothing behind.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let mut signals = Signals::install()?;
    say!("{INTRO}");
    let mut sandbox = Sandbox::start().await?;
    let played = play(&mut sandbox, &mut signals, args.keep).await;
    sandbox.end().await;
    say!("Nothing is left of it: the MongoDB has ended, and its files are removed.");
    played
}

async fn play(sandbox: &mut Sandbox, signals: &mut Signals, keep: bool) -> Result<ExitCode> {
    let config = config(sandbox.uri(), keep)?;
    let began = Instant::now();
    let (mut story, awards) = prepare(sandbox).await?;
    let started = Running::start(&config, &super::host(), signals.stopped()).await?;
    let Some(mut running) = started else {
        return Ok(ExitCode::FAILURE);
    };
    let stop = CancellationToken::new();
    let awarding = tokio::spawn(award(sandbox.badge_users(), awards, stop.clone()));
    let mut ended = tokio::select! {
        () = watch(&mut story, &sandbox.receiver, began) => Ok(true),
        () = signals.stopped() => {
            say!("\nStopped early.");
            Ok(false)
        }
        broken = running.broken() => Err(broken),
    };
    stop.cancel();
    let awarded = awarding.await?;
    let code = story.conclude();
    if keep && matches!(ended, Ok(true)) {
        keep::introduce(sandbox, running.page());
        ended = tokio::select! {
            () = signals.stopped() => ended,
            broken = running.broken() => Err(broken),
        };
    }
    running.stop(config.service.shutdown_grace).await;
    ended?;
    awarded?;
    Ok(code)
}

/// As an operator would write it, but for the loopback addresses of the endpoints and a scan every second.
fn config(uri: &str, page: bool) -> Result<Config, Faults> {
    let listen = if page { "127.0.0.1:0" } else { "" };
    let own = [
        ("CERTHOOKD_MONGODB__URI", uri),
        ("CERTHOOKD_SCAN__SCHEDULE", "* * * * * *"),
        ("CERTHOOKD_SERVICE__METRICS_LISTEN", listen),
    ];
    let settings = own.into_iter().chain(keep::LOOPBACK);
    let settings = settings.map(|(key, value)| (key.into(), value.into()));
    Config::load(None, &settings.collect::<Vec<_>>(), &Credentials::default())
}

/// Writes what has expired and what will; returns what must arrive, and the certificates to award.
async fn prepare(sandbox: &mut Sandbox) -> Result<(Story, Vec<Document>)> {
    let now = Clock::local();
    let mut certificates = sandbox.add_expired(EACH, now).await?;
    let expiring = sandbox.samples.expiring(EACH, now, EXPIRING_WITHIN);
    add(&sandbox.badge_users(), &expiring).await?;
    certificates.extend(expiring);
    let awards = sandbox.samples.awarded(EACH, now);
    sandbox
        .receiver
        .script(FLAKY, Response::failing(2, StatusCode::SERVICE_UNAVAILABLE));
    let mut story = Story::new(sandbox.samples.organizations());
    for (event_type, certificates) in [
        (EventType::CertificateExpired, &certificates),
        (EventType::CertificateCompleted, &awards),
    ] {
        story.expect(event_type, sandbox.samples.expected(event_type, certificates));
    }
    Ok((story, awards))
}

/// People complete their courses, one after the other.
async fn award(badge_users: Collection<Document>, awards: Vec<Document>, stop: CancellationToken) -> Result<()> {
    for certificate in awards {
        if stop
            .run_until_cancelled(tokio::time::sleep(AWARD_EVERY))
            .await
            .is_none()
        {
            break;
        }
        add(&badge_users, &[certificate]).await?;
    }
    Ok(())
}

/// Prints requests as they arrive, until all have arrived that must, or the limit has passed.
async fn watch(story: &mut Story, receiver: &Receiver, began: Instant) {
    say!("{}", Story::HEADER);
    let mut seen = 0;
    while !story.is_complete() {
        let left = LIMIT.saturating_sub(began.elapsed());
        let Ok(requests) = receiver.wait_for(|requests| requests.len() > seen, left).await else {
            return;
        };
        for request in &requests[seen..] {
            say!("{}", story.add(request, began));
        }
        seen = requests.len();
    }
}
