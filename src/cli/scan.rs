//! `certhookd scan`: one scan by hand, with its deliveries, or a count of what it would send.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, doc};
use tokio_util::sync::CancellationToken;

use super::table;
use crate::config::Config;
use crate::dispatch::EndpointState;
use crate::run::{Engine, Settings, Tasks, connect, reach};
use crate::service::signals::Signals;
use crate::service::systemd::Manager;
use crate::source::{Extent, WouldSend};

/// How often the outbox is asked whether all is delivered.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(config: &Config, dry_run: bool) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install()?;
    let give_up = CancellationToken::new();
    let settings = Settings::new(config)?;
    let manager = Manager::from_env();
    let stop = CancellationToken::new();
    let store = if dry_run {
        reach(config, &manager, &stop, give_up.clone()).await?
    } else {
        connect(config, &manager, &stop, give_up.clone()).await?
    };
    let engine = Engine::new(store.clone(), config, settings, &super::host());
    let done = async {
        if dry_run {
            return count(&engine).await;
        }
        let code = deliver(&engine, config, give_up).await;
        let _ = engine.cluster.leave().await;
        code
    };
    let code = tokio::select! {
        code = done => code,
        () = signals.stopped() => Ok(ExitCode::FAILURE),
    };
    drop(engine);
    store.close().await;
    code
}

async fn count(engine: &Engine) -> anyhow::Result<ExitCode> {
    engine.refresh().load().await?;
    let now = engine.store.database_time().await?;
    let counts = engine.scan(CancellationToken::new()).dry_run(now).await?;
    let row = |(organization, count): (String, WouldSend)| {
        vec![
            organization,
            count.certificates.to_string(),
            count.deliveries.to_string(),
        ]
    };
    table::print(
        &["organization", "certificates", "deliveries"],
        &counts.into_iter().map(row).collect::<Vec<_>>(),
    );
    Ok(ExitCode::SUCCESS)
}

async fn deliver(engine: &Arc<Engine>, config: &Config, give_up: CancellationToken) -> anyhow::Result<ExitCode> {
    engine.prepare().await?;
    let tasks = Tasks::for_one_scan(engine, give_up);
    let began = engine.clock.now();
    let report = engine
        .scan(CancellationToken::new())
        .run_once(Extent::All, began)
        .await?;
    loop {
        let asked = Instant::now();
        if !is_under_way(engine, began).await? {
            break;
        }
        // The backlogs of other endpoints make it slow.
        tokio::time::sleep(ASK_EVERY.max(asked.elapsed() * 2)).await;
    }
    tasks.shut_down(config.service.shutdown_grace).await;
    let counts = &engine.tally.counts;
    say!(
        "found {}, {}: {} delivered, {} dead, {} cancelled, {} known before; {} rejected, {} left out",
        crate::model::count(report.found as u64, "certificate"),
        crate::model::count(report.deliveries as u64, "delivery"),
        counts.delivered(),
        counts.dead(),
        counts.cancelled(),
        report.known,
        report.rejected,
        report.left_out
    );
    if report.left_out > 0 {
        say!("what was left out is locked by a transaction that is still open: scan again once that has ended");
    }
    Ok(if counts.dead() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether something that was appended since then is still on its way to endpoints that are served.
async fn is_under_way(engine: &Engine, since: DateTime) -> crate::store::Result<bool> {
    let looked = engine.outbox.look().await?;
    let waits = |endpoint: &crate::model::EndpointKey| {
        matches!(
            engine.endpoint_state(endpoint),
            EndpointState::OutOfService | EndpointState::Held | EndpointState::Suspended { .. }
        )
    };
    let waiting: Vec<_> = looked
        .heads
        .iter()
        .filter(|head| waits(&head.endpoint))
        .map(|head| head.endpoint.as_str())
        .collect();
    let filter = doc! { "state": "pending", "createdAt": { "$gte": since }, "endpoint": { "$nin": waiting } };
    let hint = mongodb::options::Hint::Name("pending".into());
    let found = engine.store.outbox().find_one(filter).hint(hint).await?;
    Ok(found.is_some())
}
