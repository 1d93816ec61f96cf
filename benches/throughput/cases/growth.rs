//! A backlog a hundred times larger: what an event costs then, and how much memory it takes.

use anyhow::Result;

use super::Run;
use crate::plan::Plan;
use crate::receiver::{Manner, Receiver, STEP};
use crate::report::{Chart, Curve, Findings, Target};
use crate::stage::Stage;

const ORGANIZATIONS: usize = 10;
/// Points of the growth line.
const POINTS: usize = 50;

/// The small backlog as often as always, the large one once.
pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let Some((small, large)) = plan.growth else {
        return Ok(());
    };
    let receiver = Receiver::start(Manner::AtOnce)?;
    let each = |run: &Run, events: usize| run.seconds * 1e3 / events as f64;
    let mut before = Vec::new();
    for _ in 0..plan.rounds {
        before.push(each(&Run::daemon(stage, &receiver, small, ORGANIZATIONS).await?, small));
    }
    let run = Run::daemon(stage, &receiver, large, ORGANIZATIONS).await?;
    let ratio = before.iter().map(|before| each(&run, large) / before).collect();
    findings.note(
        &format!("seconds per 1,000 events at a backlog of {small}"),
        "s",
        before,
    );
    findings.note(
        &format!("seconds per 1,000 events at a backlog of {large}"),
        "s",
        vec![each(&run, large)],
    );
    findings.judge("growth: the second against the first", "×", ratio, Target::AtMost(1.05));
    findings.judge(
        "peak RSS at the large backlog",
        "MB",
        vec![run.peak],
        Target::AtMost(48.0),
    );
    findings.curves.push(Curve {
        chart: Chart::Growth,
        label: format!("certhookd, {large} events"),
        points: line(&run.steps),
    });
    Ok(())
}

/// Seconds per 1,000 events, each point over a part of the backlog.
fn line(steps: &[f64]) -> Vec<(f64, f64)> {
    let width = (steps.len() / POINTS).max(1);
    let ends: Vec<_> = steps.iter().skip(width - 1).step_by(width).collect();
    let part = |(place, pair): (usize, &[&f64])| {
        let events = ((place + 2) * width * STEP) as f64;
        (events, (pair[1] - pair[0]) / width as f64)
    };
    ends.windows(2).enumerate().map(part).collect()
}
