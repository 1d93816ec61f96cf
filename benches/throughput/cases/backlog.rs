//! Certificates that expired while nobody looked: how fast they go out.

use std::time::Duration;

use anyhow::Result;

use super::Run;
use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::Stage;
use crate::statistics::ratios;

const ORGANIZATIONS: usize = 10;
/// Parallel requests to one endpoint.
const CONCURRENCY: usize = 5;
const SLOW: Duration = Duration::from_millis(50);

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
    let cpu = |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| run.cpu * 1e3 / plan.backlog as f64).collect() };
    findings.note("backlog: bare loop", "events/s", rate(&bare));
    findings.note("backlog: certhookd", "events/s", rate(&daemon));
    let ratio = ratios(&rate(&daemon), &rate(&bare));
    findings.judge("backlog: rate against the bare loop", "×", ratio, Target::AtLeast(0.8));
    findings.note("CPU per 1,000 deliveries: bare loop", "s", cpu(&bare));
    findings.note("CPU per 1,000 deliveries: certhookd", "s", cpu(&daemon));
    let ratio = ratios(&cpu(&daemon), &cpu(&bare));
    findings.judge(
        "CPU per 1,000 deliveries against the bare loop",
        "×",
        ratio,
        Target::AtMost(1.5),
    );
    Ok(())
}

/// Against the ceiling, a receiver that takes 50 ms.
pub async fn slow(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::After(SLOW))?;
    let ceiling = (ORGANIZATIONS * CONCURRENCY) as f64 / SLOW.as_secs_f64();
    let mut parts = Vec::new();
    for _ in 0..plan.rounds {
        let run = Run::daemon(stage, &receiver, plan.slow_backlog, ORGANIZATIONS).await?;
        parts.push(plan.slow_backlog as f64 / run.seconds / ceiling);
    }
    findings.judge(
        "backlog, receiver taking 50 ms: rate against the ceiling",
        "×",
        parts,
        Target::AtLeast(0.97),
    );
    Ok(())
}
