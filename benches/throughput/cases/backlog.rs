//! Certificates that expired while nobody looked: how fast they go out.

use std::time::Duration;

use anyhow::Result;

use super::Run;
use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::Stage;
use crate::statistics::{Spread, ratios};

const ORGANIZATIONS: usize = 10;
/// Parallel requests to one endpoint.
const CONCURRENCY: usize = 5;
const SLOW: Duration = Duration::from_millis(50);
/// Requests to it alone.
const PACES: usize = 40;

/// Against the bare loop, a receiver that answers at once: rate and CPU time.
pub async fn fast(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::AtOnce)?;
    let (mut bare, mut daemon) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        bare.push(Run::bare_loop(stage, &receiver, plan.backlog, ORGANIZATIONS).await?);
        daemon.push(Run::daemon(stage, &receiver, plan.backlog, ORGANIZATIONS).await?);
    }
    let rate = |runs: &[Run]| {
        runs.iter()
            .map(|run| plan.backlog as f64 / run.seconds)
            .collect::<Vec<_>>()
    };
    let each = |seconds: f64| seconds * 1e3 / plan.backlog as f64;
    let cpu = |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| each(run.cpu)).collect() };
    let mongod = |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| each(run.mongod)).collect() };
    findings.note("backlog: bare loop", "events/s", rate(&bare));
    findings.note("backlog: certhookd", "events/s", rate(&daemon));
    let ratio = ratios(&rate(&daemon), &rate(&bare));
    findings.judge("backlog: rate against the bare loop", "×", ratio, Target::AtLeast(1.0));
    findings.note("CPU per 1,000 deliveries: bare loop", "s", cpu(&bare));
    findings.note("CPU per 1,000 deliveries: certhookd", "s", cpu(&daemon));
    let ratio = ratios(&cpu(&daemon), &cpu(&bare));
    findings.judge(
        "CPU per 1,000 deliveries against the bare loop",
        "×",
        ratio,
        Target::AtMost(1.3),
    );
    findings.note("MongoDB's CPU per 1,000 deliveries: bare loop", "s", mongod(&bare));
    findings.note("MongoDB's CPU per 1,000 deliveries: certhookd", "s", mongod(&daemon));
    findings.judge(
        "MongoDB's CPU per 1,000 deliveries against the bare loop's",
        "×",
        ratios(&mongod(&daemon), &mongod(&bare)),
        Target::AtMost(1.0),
    );
    Ok(())
}

/// Against the ceiling, a receiver that takes 50 ms, by what it takes itself: timers are late. What the bare loop reaches shows
/// what is left to be gained.
pub async fn slow(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::After(SLOW))?;
    let paces = receiver.pace(PACES).await?;
    let pace = Spread::from(paces.clone()).median;
    let ceiling = (ORGANIZATIONS * CONCURRENCY) as f64 * 1e3 / pace;
    let events = plan.slow_backlog;
    let part = |run: &Run| events as f64 / run.seconds / ceiling;
    let (mut bare, mut daemon) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        bare.push(part(&Run::bare_loop(stage, &receiver, events, ORGANIZATIONS).await?));
        daemon.push(part(&Run::daemon(stage, &receiver, events, ORGANIZATIONS).await?));
    }
    findings.note("receiver taking 50 ms: a request alone", "ms", paces);
    let what = "backlog, receiver taking 50 ms";
    findings.note(&format!("{what}: bare loop against the ceiling"), "×", bare);
    let what = format!("{what}: rate against the ceiling");
    findings.judge(&what, "×", daemon, Target::AtLeast(0.98));
    Ok(())
}
