//! Makes faults happen, and mends what they broke.

use anyhow::Result;
use certhookd::sandbox::{Answer, Proxy};
use http::StatusCode;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::daemon::Daemon;
use super::fault::{Fault, Kind, Victims};
use super::plan::Step;
use super::stage::Stage;

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
        Kind::Kill(victims) => {
            for daemon in daemons(stage, victims) {
                daemon.kill().await?;
            }
            wait.await;
            restart(stage, victims).await?;
        }
        Kind::KillAt(victim, step) => {
            let daemon = &stage.daemons[victim];
            daemon.kill().await?;
            daemon.start(Some(step)).await?;
            wait.await;
            daemon.kill().await?;
            daemon.start(None).await?;
        }
        Kind::Terminate(victims) => {
            for daemon in daemons(stage, victims) {
                daemon.terminate().await?;
            }
            wait.await;
            restart(stage, victims).await?;
        }
        Kind::Freeze(victim) => {
            stage.daemons[victim].signal(Signal::SIGSTOP).await?;
            wait.await;
            stage.daemons[victim].signal(Signal::SIGCONT).await?;
        }
        Kind::KillMongod => {
            stage.set.kill(0)?;
            wait.await;
            stage.set.restart(0).await?;
        }
        Kind::StepDown => {
            stage.set.step_down(u32::try_from(fault.lasts.as_secs())?).await?;
            wait.await;
        }
        Kind::Cut(victims) => break_network(stage, victims, Proxy::cut, wait).await,
        Kind::BlackHole(victims) => break_network(stage, victims, Proxy::black_hole, wait).await,
        Kind::Refuse(path) => answer(stage, path, Answer::status(StatusCode::SERVICE_UNAVAILABLE), wait).await,
        Kind::Hang(path) => answer(stage, path, Answer::silence(), wait).await,
    }
    Ok(())
}

fn daemons<'a>(stage: &'a Stage<'_>, victims: Victims) -> impl Iterator<Item = &'a Daemon> {
    victims.iter().map(|victim| &stage.daemons[*victim])
}

async fn restart(stage: &Stage<'_>, victims: Victims) -> Result<()> {
    for daemon in daemons(stage, victims) {
        daemon.start(None).await?;
    }
    Ok(())
}

async fn break_network(stage: &Stage<'_>, victims: Victims, how: fn(&Proxy), wait: impl Future<Output = ()>) {
    victims.iter().for_each(|victim| how(&stage.proxies[*victim]));
    wait.await;
    victims.iter().for_each(|victim| stage.proxies[*victim].pass());
}

async fn answer(stage: &Stage<'_>, path: &str, answer: Answer, wait: impl Future<Output = ()>) {
    stage.receiver.script(path, [answer]);
    wait.await;
    stage.receiver.script(path, [Answer::ok()]);
}
