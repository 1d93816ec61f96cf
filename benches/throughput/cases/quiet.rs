//! Nothing to do, among certificates that are alive: start, scan, idle.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bson::{Bson, Document};

use crate::plan::Plan;
use crate::process::Process;
use crate::profiler;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::{Fixture, Stage};
use crate::usage::Usage;

const ORGANIZATIONS: usize = 10;
/// What belongs to a start is over by then.
const SETTLED: Duration = Duration::from_secs(3);

/// Start over a warm database, scans that find nothing, and an idle daemon.
pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::AtOnce)?;
    let mut fixture = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
    fixture.alive(plan.alive).await?;
    fixture.daemon().await?.stop().await?;
    start(&fixture, plan, findings).await?;
    let mut process = fixture.daemon().await?;
    scan(&fixture, &mut process, plan, findings).await?;
    process.stop().await?;
    let process = fixture.daemon().await?;
    idle(&fixture, &process, plan, findings).await?;
    process.stop().await?;
    fixture.drop().await
}

/// From the start of the process to READY, which systemd is told and the log too.
async fn start(fixture: &Fixture, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let mut starts = Vec::new();
    for _ in 0..plan.rounds {
        let process = fixture.daemon().await?;
        starts.push(process.ready_after.as_secs_f64());
        process.stop().await?;
    }
    findings.judge("start to READY over a warm database", "s", starts, Target::AtMost(0.5));
    Ok(())
}

/// What MongoDB's profiler says of the scan's query.
async fn scan(fixture: &Fixture, process: &mut Process, plan: &Plan, findings: &mut Findings) -> Result<()> {
    profiler::begin(&fixture.database).await?;
    for round in 1..=plan.rounds {
        process.go()?;
        process.nth_line("\"scan finished\"", round).await?;
    }
    let operations = profiler::end(&fixture.database).await?;
    let scans: Vec<_> = operations.iter().filter(|operation| is_scan(operation)).collect();
    let values = |field: &str| -> Result<Vec<f64>> {
        let value = |operation: &&Document| operation.get(field).and_then(number).context("no scan was profiled");
        scans.iter().map(value).collect()
    };
    let among = format!("scan of an empty minute among {}", plan.alive);
    findings.judge(
        &format!("{among}: server time"),
        "ms",
        values("millis")?,
        Target::AtMost(1.0),
    );
    let examined = values("docsExamined")?;
    findings.judge(
        &format!("{among}: documents examined"),
        "",
        examined,
        Target::AtMost(0.0),
    );
    Ok(())
}

fn is_scan(operation: &Document) -> bool {
    let command = operation.get_document("command");
    command.is_ok_and(|command| {
        command
            .get_str("find")
            .is_ok_and(|collection| collection == "badgeusers")
    })
}

/// CPU, memory and queries of a daemon that has nothing to do.
async fn idle(fixture: &Fixture, process: &Process, plan: &Plan, findings: &mut Findings) -> Result<()> {
    tokio::time::sleep(SETTLED).await;
    profiler::begin(&fixture.database).await?;
    let began = Instant::now();
    let usage = Usage::watch(plan.idle, || process.cpu()).await?;
    let seconds = began.elapsed().as_secs_f64();
    let kinds = profiler::kinds(&profiler::end(&fixture.database).await?);
    let busiest = kinds
        .iter()
        .max_by_key(|(_, count)| **count)
        .context("the daemon asked nothing")?;
    println!("the idle daemon's operations in {seconds:.0} s: {kinds:#?}");
    usage.note("idle", findings);
    findings.judge("idle: part of a core", "%", vec![usage.percent], Target::AtMost(0.2));
    findings.judge("idle: RSS", "MB", vec![process.memory("VmRSS")?], Target::AtMost(16.0));
    // Between n queries lie n - 1 intervals.
    let rate = (busiest.1 - 1) as f64 / seconds;
    findings.judge(
        "idle: the most frequent operation",
        "/s",
        vec![rate],
        Target::AtMost(1.0),
    );
    Ok(())
}

fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(value) => Some(f64::from(*value)),
        Bson::Int64(value) => Some(*value as f64),
        Bson::Double(value) => Some(*value),
        _ => None,
    }
}
