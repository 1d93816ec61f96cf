//! Two daemons on one database against one alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Run;
use crate::plan::Plan;
use crate::process::Process;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::{Fixture, Stage};
use crate::statistics::ratios;

const ENDPOINTS: usize = 100;
const SLOW: Duration = Duration::from_millis(50);

/// Rate of both together, and how they share the work.
pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::After(SLOW))?;
    let (mut one, mut both, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        // Alone: even an idle daemon has a change stream, which costs MongoDB something at every write.
        let run = Run::daemon(stage, &receiver, plan.shared_backlog, ENDPOINTS).await?;
        one.push(plan.shared_backlog as f64 / run.seconds);
        let pair = Pair::start(stage, &receiver, plan.shared_backlog).await?;
        let (rate, share) = pair.run(&receiver, plan.shared_backlog).await?;
        both.push(rate);
        shares.push(share * 100.0);
    }
    let ratio = ratios(&both, &one);
    findings.note("100 endpoints, receiver taking 50 ms: one daemon", "events/s", one);
    findings.note("100 endpoints, receiver taking 50 ms: two daemons", "events/s", both);
    findings.judge("two daemons against one", "×", ratio, Target::AtLeast(0.95));
    findings.judge("two daemons: the smaller share", "%", shares, Target::AtLeast(40.0));
    Ok(())
}

/// Two daemons on one database, before a backlog.
struct Pair {
    fixture: Fixture,
    daemons: [Process; 2],
}

impl Pair {
    async fn start(stage: &Stage, receiver: &Receiver, events: usize) -> Result<Self> {
        let mut fixture = stage.fixture(ENDPOINTS, receiver.address()).await?;
        fixture.expired(events).await?;
        Ok(Self {
            daemons: [fixture.daemon().await?, fixture.daemon().await?],
            fixture,
        })
    }

    /// Events a second, and the smaller part of them that one daemon delivered.
    async fn run(self, receiver: &Receiver, events: usize) -> Result<(f64, f64)> {
        self.fixture.shared(2).await?;
        receiver.reset();
        let began = Instant::now();
        // As their schedule would: one of them scans.
        self.daemons[0].go()?;
        receiver.wait_for(events).await?;
        self.fixture.recorded().await?;
        let rate = events as f64 / began.elapsed().as_secs_f64();
        let [first, second] = self.daemons;
        let (first, second) = (delivered(first).await?, delivered(second).await?);
        self.fixture.drop().await?;
        Ok((rate, first.min(second) / (first + second)))
    }
}

/// What a daemon delivered, as it says when it stops.
async fn delivered(process: Process) -> Result<f64> {
    let lines = process.stop().await?;
    let told = lines.iter().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line.get("delivered")?.as_f64()
    });
    told.context("a daemon did not say what it delivered")
}
