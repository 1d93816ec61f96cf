//! Backlogs of other shapes: very many organizations with little each, and one endpoint with all of it.

use std::path::Path;

use anyhow::{Context, Result};

use super::Run;
use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::{DAEMON, Stage};
use crate::statistics::ratios;

/// Certificates of each of the many organizations.
const EACH: usize = 10;

/// Against another binary, where one is given.
pub async fn run(stage: &Stage, plan: &Plan, other: Option<&Path>, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::AtOnce)?;
    let many = plan.organizations;
    for (organizations, events, least) in [(many, many * EACH, 1.0), (1, plan.backlog, 1.8)] {
        let shape = format!("{organizations} organizations, {events} events");
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let run = Run::daemon_of(DAEMON, stage, &receiver, events, organizations).await?;
            new.push(rate(events, &run));
            if let Some(other) = other {
                let binary = other.to_str().context("a path that is no text")?;
                let run = Run::daemon_of(binary, stage, &receiver, events, organizations).await?;
                old.push(rate(events, &run));
            }
        }
        let ratio = ratios(&new, &old);
        findings.note(&format!("{shape}: certhookd"), "events/s", new);
        if other.is_some() {
            findings.note(&format!("{shape}: the other"), "events/s", old);
            findings.judge(
                &format!("{shape}: against the other"),
                "×",
                ratio,
                Target::AtLeast(least),
            );
        }
    }
    Ok(())
}

/// Up to the last request: the other may keep its deliveries elsewhere.
fn rate(events: usize, run: &Run) -> f64 {
    let last = run.steps.last().copied().unwrap_or(run.seconds);
    events as f64 / last
}
