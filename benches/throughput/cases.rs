//! The cases: each says what is measured, from when to when, and against what.

pub mod backlog;
pub mod completions;
pub mod endpoints;
pub mod growth;
pub mod isolation;
pub mod operations;
pub mod quiet;
pub mod rate;
pub mod shapes;
pub mod two;
pub mod waiting;

use std::time::Instant;

use anyhow::Result;

use crate::baseline;
use crate::process::Process;
use crate::receiver::Receiver;
use crate::stage::{DAEMON, Stage};

/// What it took to deliver a backlog.
pub struct Run {
    /// Seconds from the signal that starts the scan until the last result is recorded.
    pub seconds: f64,
    /// CPU seconds of the measured process in that time.
    pub cpu: f64,
    /// Its highest resident memory since its start, in MB.
    pub peak: f64,
    /// CPU seconds of MongoDB in that time.
    pub mongod: f64,
    /// Seconds from the signal to each thousandth request.
    pub steps: Vec<f64>,
}

impl Run {
    /// Has the daemon deliver `events` that expired, of as many organizations with an endpoint each.
    pub async fn daemon(stage: &Stage, receiver: &Receiver, events: usize, organizations: usize) -> Result<Self> {
        Self::daemon_of(DAEMON, stage, receiver, events, organizations).await
    }

    /// Has the daemon of that binary deliver them, until the last request came.
    pub async fn daemon_of(
        binary: &str,
        stage: &Stage,
        receiver: &Receiver,
        events: usize,
        organizations: usize,
    ) -> Result<Self> {
        let mut fixture = stage.fixture(organizations, receiver.address()).await?;
        fixture.expired(events).await?;
        let process = fixture.daemon_of(binary).await?;
        let start = Start::now(&process, receiver, stage)?;
        receiver.wait_for(events).await?;
        fixture.recorded().await?;
        let run = start.end(&process, receiver, stage)?;
        process.stop().await?;
        fixture.drop().await?;
        Ok(run)
    }

    /// Has the bare loop do the same.
    pub async fn bare_loop(stage: &Stage, receiver: &Receiver, events: usize, organizations: usize) -> Result<Self> {
        let mut fixture = stage.fixture(organizations, receiver.address()).await?;
        fixture.expired(events).await?;
        let mut process = fixture.baseline(baseline::LOOP).await?;
        let start = Start::now(&process, receiver, stage)?;
        process.line("\"recorded\"").await?;
        receiver.wait_for(events).await?;
        let run = start.end(&process, receiver, stage)?;
        process.stop().await?;
        fixture.drop().await?;
        Ok(run)
    }
}

struct Start {
    at: Instant,
    cpu: f64,
    mongod: f64,
}

impl Start {
    fn now(process: &Process, receiver: &Receiver, stage: &Stage) -> Result<Self> {
        receiver.reset();
        let (cpu, mongod) = (process.cpu()?, stage.mongod_cpu()?);
        let at = Instant::now();
        process.go()?;
        Ok(Self { at, cpu, mongod })
    }

    fn end(self, process: &Process, receiver: &Receiver, stage: &Stage) -> Result<Run> {
        let seconds = self.at.elapsed().as_secs_f64();
        let since = |step: &Instant| step.duration_since(self.at).as_secs_f64();
        Ok(Run {
            seconds,
            cpu: process.cpu()? - self.cpu,
            mongod: stage.mongod_cpu()? - self.mongod,
            peak: process.memory("VmHWM")?,
            steps: receiver.steps().iter().map(since).collect(),
        })
    }
}
