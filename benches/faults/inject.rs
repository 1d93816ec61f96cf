//! Makes faults happen, and mends what they broke.

use std::time::{Duration, Instant};

use anyhow::Result;
use bson::{Document, doc};
use certhookd::sandbox::{Proxy, Response};
use http::StatusCode;
use mongodb::Database;
use tokio::time::sleep;

use super::daemon::Daemon;
use super::fault::{Fault, Kind, Victims};
use super::plan::Step;
use super::rule::{LOCK_LIMIT_MS, persist};
use super::stage::Stage;

/// How long an instance lives in a crash loop, in turn.
const LIVES: [Duration; 4] = [
    Duration::from_millis(1000),
    Duration::from_millis(1300),
    Duration::from_millis(1600),
    Duration::from_millis(1900),
];

/// How long an instance whose login was refused takes to end.
const TO_END: Duration = Duration::from_secs(1);

/// From one deletion of the position to the next.
const LOSE_AGAIN: Duration = Duration::from_millis(50);

/// One fault after the other; each is mended when this returns.
pub async fn inject(stage: &Stage<'_>, steps: &[Step]) -> Result<()> {
    for (pause, fault) in steps {
        sleep(*pause).await;
        happen(stage, fault).await?;
    }
    Ok(())
}

async fn happen(stage: &Stage<'_>, fault: &Fault) -> Result<()> {
    let wait = sleep(fault.lasts);
    match fault.kind {
        Kind::Kill(victims) => kill(stage, victims, wait).await,
        Kind::KillAt(victim, step) => kill_at(&stage.daemons[victim], step, wait).await,
        Kind::CrashLoop(victim) => crash_loop(&stage.daemons[victim], fault.lasts).await,
        Kind::Terminate(victims) => terminate(stage, victims, wait).await,
        Kind::Freeze(victim) => freeze(stage, victim, wait).await,
        Kind::KillMongod => {
            stage.set.kill(0)?;
            wait.await;
            stage.set.restart(0).await
        }
        Kind::StepDown => {
            stage.set.step_down(u32::try_from(fault.lasts.as_secs())?).await?;
            wait.await;
            Ok(())
        }
        Kind::Cut(victims) => break_network(stage, victims, Proxy::cut, wait).await,
        Kind::BlackHole(victims) => break_network(stage, victims, Proxy::black_hole, wait).await,
        Kind::DropUser => drop_user(stage, wait).await,
        Kind::Refuse(path) => respond(stage, path, Response::status(StatusCode::SERVICE_UNAVAILABLE), wait).await,
        Kind::Hang(path) => respond(stage, path, Response::silence(), wait).await,
        Kind::Refused(rule) => {
            rule.impose(&stage.database).await?;
            wait.await;
            rule.lift(&stage.database).await
        }
        Kind::DropIndexes => {
            drop_indexes(&stage.database).await?;
            wait.await;
            Ok(())
        }
        Kind::LosePosition => lose_position(&stage.database, fault.lasts).await,
    }
}

async fn kill(stage: &Stage<'_>, victims: Victims, wait: impl Future<Output = ()>) -> Result<()> {
    for daemon in daemons(stage, victims) {
        daemon.kill().await?;
    }
    wait.await;
    restart(stage, victims).await
}

async fn kill_at(daemon: &Daemon, step: &str, wait: impl Future<Output = ()>) -> Result<()> {
    daemon.kill().await?;
    daemon.start(Some(step)).await?;
    wait.await;
    daemon.kill().await?;
    daemon.start(None).await
}

async fn terminate(stage: &Stage<'_>, victims: Victims, wait: impl Future<Output = ()>) -> Result<()> {
    for daemon in daemons(stage, victims) {
        daemon.terminate().await?;
    }
    wait.await;
    restart(stage, victims).await
}

/// An instance that started meanwhile has given up, as it must where its login is refused: it is started again.
async fn drop_user(stage: &Stage<'_>, wait: impl Future<Output = ()>) -> Result<()> {
    stage.user.remove().await?;
    wait.await;
    stage.user.restore().await?;
    sleep(TO_END).await;
    stage.revive().await
}

/// Again and again: whoever watches writes it anew every second.
async fn lose_position(database: &Database, lasts: Duration) -> Result<()> {
    let state = database.collection::<Document>("webhook_state");
    let began = Instant::now();
    while began.elapsed() < lasts {
        persist(|| state.delete_one(doc! { "_id": "watch" }).into_future()).await?;
        sleep(LOSE_AGAIN).await;
    }
    Ok(())
}

/// All but those of `_id`.
async fn drop_indexes(database: &Database) -> Result<()> {
    for collection in ["badgeusers", "webhook_outbox", "webhook_stats"] {
        let drop = doc! { "dropIndexes": collection, "index": "*", "maxTimeMS": LOCK_LIMIT_MS };
        persist(|| database.run_command(drop.clone()).into_future()).await?;
    }
    Ok(())
}

fn daemons<'a>(stage: &'a Stage<'_>, victims: Victims) -> &'a [Daemon] {
    &stage.daemons[victims.of(stage.daemons.len())]
}

async fn restart(stage: &Stage<'_>, victims: Victims) -> Result<()> {
    for daemon in daemons(stage, victims) {
        daemon.start(None).await?;
    }
    Ok(())
}

async fn crash_loop(daemon: &Daemon, lasts: Duration) -> Result<()> {
    let began = Instant::now();
    for life in LIVES.into_iter().cycle() {
        daemon.kill().await?;
        daemon.start(None).await?;
        if began.elapsed() >= lasts {
            break;
        }
        sleep(life).await;
    }
    Ok(())
}

async fn freeze(stage: &Stage<'_>, victim: usize, wait: impl Future<Output = ()>) -> Result<()> {
    let daemon = &stage.daemons[victim];
    let frozen = daemon.freeze(stage.receiver.address().port()).await?;
    wait.await;
    let until = Some(Instant::now());
    daemon.thaw().await?;
    stage
        .freezes
        .lock()
        .extend(frozen.map(|frozen| super::freeze::Freeze { until, ..frozen }));
    Ok(())
}

async fn break_network(
    stage: &Stage<'_>,
    victims: Victims,
    how: fn(&Proxy),
    wait: impl Future<Output = ()>,
) -> Result<()> {
    let proxies = &stage.proxies[victims.of(stage.proxies.len())];
    proxies.iter().for_each(how);
    wait.await;
    proxies.iter().for_each(Proxy::pass);
    Ok(())
}

async fn respond(stage: &Stage<'_>, path: &str, response: Response, wait: impl Future<Output = ()>) -> Result<()> {
    stage.receiver.script(path, [response]);
    wait.await;
    stage.respond_as_usual(path);
    Ok(())
}
