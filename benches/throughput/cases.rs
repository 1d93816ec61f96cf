//! The cases: each says what is measured, from when to when, and against what.

pub mod backlog;
pub mod completions;
pub mod endpoints;
pub mod growth;
pub mod isolation;
pub mod quiet;
pub mod two;

use std::time::Instant;

use anyhow::Result;

use crate::baseline;
use crate::process::Process;
use crate::receiver::Receiver;
use crate::stage::Stage;

/// What it took to deliver a backlog.
pub struct Run {
    /// Seconds from the signal that starts the scan until the last result is recorded.
    pub seconds: f64,
    /// CPU seconds of the measured process in that time.
    pub cpu: f64,
    /// Its highest resident memory since its start, in MB.
    pub peak: f64,
    /// Seconds from the signal to each thousandth request.
    pub steps: Vec<f64>,
}

impl Run {
    /// Has the daemon deliver `events` that expired, of as many organizations with an endpoint each.
    pub async fn daemon(stage: &Stage, receiver: &Receiver, events: usize, organizations: usize) -> Result<Self> {
        let mut fixture = stage.fixture(organizations, receiver.address()).await?;
        fixture.expired(events).await?;
        let process = fixture.daemon().await?;
        let start = Start::now(&process, receiver)?;
        receiver.wait_for(events).await?;
        fixture.recorded().await?;
        let run = start.end(&process, receiver)?;
        process.stop().await?;
        fixture.drop().await?;
        Ok(run)
    }

    /// Has the bare loop do the same.
    pub async fn bare_loop(stage: &Stage, receiver: &Receiver, events: usize, organizations: usize) -> Result<Self> {
        let mut fixture = stage.fixture(organizations, receiver.address()).await?;
        fixture.expired(events).await?;
        let mut process = fixture.baseline(baseline::LOOP).await?;
        let start = Start::now(&process, receiver)?;
        process.line("\"recorded\"").await?;
        receiver.wait_for(events).await?;
        let run = start.end(&process, receiver)?;
        process.stop().await?;
        fixture.drop().await?;
        Ok(run)
    }
}

struct Start {
    at: Instant,
    cpu: f64,
}

impl Start {
    fn now(process: &Process, receiver: &Receiver) -> Result<Self> {
        receiver.reset();
        let cpu = process.cpu()?;
        let at = Instant::now();
        process.go()?;
        Ok(Self { at, cpu })
    }

    fn end(self, process: &Process, receiver: &Receiver) -> Result<Run> {
        let seconds = self.at.elapsed().as_secs_f64();
        let since = |step: &Instant| step.duration_since(self.at).as_secs_f64();
        Ok(Run {
            seconds,
            cpu: process.cpu()? - self.cpu,
            peak: process.memory("VmHWM")?,
            steps: receiver.steps().iter().map(since).collect(),
        })
    }
}
