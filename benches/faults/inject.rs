//! Makes faults happen, and repairs what they broke.

use std::time::{Duration, Instant};

use anyhow::Result;
use bson::{Document, doc};
use certhookd::sandbox::{Proxy, Response};
use http::StatusCode;
use mongodb::Database;
use tokio::time::sleep;

use super::daemon::Daemon;
use super::fault::{Fault, Kind, Victims};
use super::fixture::Fixture;
use super::plan::Step;
use super::rule::{LOCK_LIMIT_MS, persist};

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

/// One fault after the other; each is repaired when this returns.
pub async fn inject(fixture: &Fixture<'_>, steps: &[Step]) -> Result<()> {
    for (pause, fault) in steps {
        sleep(*pause).await;
        happen(fixture, fault).await?;
    }
    Ok(())
}

async fn happen(fixture: &Fixture<'_>, fault: &Fault) -> Result<()> {
    let wait = sleep(fault.lasts);
    match fault.kind {
        Kind::Kill(victims) => kill(fixture, victims, wait).await,
        Kind::KillAt(victim, step) => kill_at(&fixture.daemons[victim], step, wait).await,
        Kind::CrashLoop(victim) => crash_loop(&fixture.daemons[victim], fault.lasts).await,
        Kind::Terminate(victims) => terminate(fixture, victims, wait).await,
        Kind::Freeze(victim) => freeze(fixture, victim, wait).await,
        Kind::KillMongod => {
            fixture.set.kill(0)?;
            wait.await;
            fixture.set.restart(0).await
        }
        Kind::StepDown => {
            fixture.set.step_down(u32::try_from(fault.lasts.as_secs())?).await?;
            wait.await;
            Ok(())
        }
        Kind::Cut(victims) => break_network(fixture, victims, Proxy::cut, wait).await,
        Kind::BlackHole(victims) => break_network(fixture, victims, Proxy::black_hole, wait).await,
        Kind::DropUser => drop_user(fixture, wait).await,
        Kind::Refuse(path) => respond(fixture, path, Response::status(StatusCode::SERVICE_UNAVAILABLE), wait).await,
        Kind::Hang(path) => respond(fixture, path, Response::silence(), wait).await,
        Kind::Refused(rule) => {
            rule.impose(&fixture.database).await?;
            wait.await;
            rule.lift(&fixture.database).await
        }
        Kind::DropIndexes => {
            drop_indexes(&fixture.database).await?;
            wait.await;
            Ok(())
        }
        Kind::LosePosition => lose_position(&fixture.database, fault.lasts).await,
    }
}

async fn kill(fixture: &Fixture<'_>, victims: Victims, wait: impl Future<Output = ()>) -> Result<()> {
    for daemon in daemons(fixture, victims) {
        daemon.kill().await?;
    }
    wait.await;
    restart(fixture, victims).await
}

async fn kill_at(daemon: &Daemon, step: &str, wait: impl Future<Output = ()>) -> Result<()> {
    daemon.kill().await?;
    daemon.start(Some(step)).await?;
    wait.await;
    daemon.kill().await?;
    daemon.start(None).await
}

async fn terminate(fixture: &Fixture<'_>, victims: Victims, wait: impl Future<Output = ()>) -> Result<()> {
    for daemon in daemons(fixture, victims) {
        daemon.terminate().await?;
    }
    wait.await;
    restart(fixture, victims).await
}

/// An instance that started meanwhile has given up, as it must where its login is refused: it is started again.
async fn drop_user(fixture: &Fixture<'_>, wait: impl Future<Output = ()>) -> Result<()> {
    fixture.user.remove().await?;
    wait.await;
    fixture.user.restore().await?;
    sleep(TO_END).await;
    fixture.revive().await
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

fn daemons<'a>(fixture: &'a Fixture<'_>, victims: Victims) -> &'a [Daemon] {
    &fixture.daemons[victims.of(fixture.daemons.len())]
}

async fn restart(fixture: &Fixture<'_>, victims: Victims) -> Result<()> {
    for daemon in daemons(fixture, victims) {
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

async fn freeze(fixture: &Fixture<'_>, victim: usize, wait: impl Future<Output = ()>) -> Result<()> {
    let daemon = &fixture.daemons[victim];
    let frozen = daemon.freeze(fixture.receiver.address().port()).await?;
    wait.await;
    let until = Some(Instant::now());
    daemon.thaw().await?;
    fixture
        .freezes
        .lock()
        .extend(frozen.map(|frozen| super::freeze::Freeze { until, ..frozen }));
    Ok(())
}

async fn break_network(
    fixture: &Fixture<'_>,
    victims: Victims,
    how: fn(&Proxy),
    wait: impl Future<Output = ()>,
) -> Result<()> {
    let proxies = &fixture.proxies[victims.of(fixture.proxies.len())];
    proxies.iter().for_each(how);
    wait.await;
    proxies.iter().for_each(Proxy::pass);
    Ok(())
}

async fn respond(fixture: &Fixture<'_>, path: &str, response: Response, wait: impl Future<Output = ()>) -> Result<()> {
    fixture.receiver.script(path, [response]);
    wait.await;
    fixture.respond_as_usual(path);
    Ok(())
}
