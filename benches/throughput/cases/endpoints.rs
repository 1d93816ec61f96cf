//! Very many endpoints, each at a host of its own: what they take in memory and open files.

use anyhow::Result;

use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::Stage;

/// Certificates of each organization.
const EACH: usize = 3;

/// Once: all that is due to all of them, at once.
pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::AtOnce)?;
    let port = receiver.address().port();
    let host = |i: usize| format!("http://127.1.{}.{}:{port}/{i}", i / 256, i % 256);
    let mut fixture = stage.fixture_at(plan.endpoints, receiver.address(), host).await?;
    let events = plan.endpoints * EACH;
    fixture.expired(events).await?;
    let process = fixture.daemon().await?;
    let at_rest = process.memory("VmRSS")?;
    let began = std::time::Instant::now();
    process.go()?;
    let delivered = async {
        receiver.wait_for(events).await?;
        fixture.recorded().await
    };
    let (files, done) = process.most_files(delivered).await?;
    done?;
    let rate = events as f64 / began.elapsed().as_secs_f64();
    let endpoints = plan.endpoints;
    let what = |what: &str| format!("{endpoints} endpoints, {events} events: {what}");
    findings.note(&what("rate"), "events/s", vec![rate]);
    findings.note(&what("RSS at rest"), "MB", vec![at_rest]);
    let peak = process.memory("VmHWM")?;
    findings.judge(&what("peak RSS"), "MB", vec![peak], Target::AtMost(100.0));
    findings.judge(
        &what("open files at most"),
        "",
        vec![files as f64],
        Target::AtMost(1_000.0),
    );
    process.stop().await?;
    fixture.drop().await
}
