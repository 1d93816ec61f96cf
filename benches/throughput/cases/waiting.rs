//! Endpoints for which something waits that must not be sent: what they cost while nothing happens.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::Stage;

/// MongoDB has written down what was inserted by then.
const SETTLED: Duration = Duration::from_secs(60);

/// What the daemon does most rarely, it does this often: looking at all queues. After its start it takes as long until it does it that rarely.
const PERIOD: Duration = Duration::from_secs(256);

/// Deliveries for each of them.
const EACH: usize = 3;

/// Endpoints that have no URL that anything is sent to.
pub async fn out_of_service(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    measure(stage, plan, findings, "out of service", |i| format!("ftp://h/{i}")).await
}

/// Endpoints that were suspended by a 410 when the daemon had started.
pub async fn suspended(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::Gone)?;
    let port = receiver.address().port();
    measure(stage, plan, findings, "suspended", |i| {
        format!("http://127.0.0.1:{port}/{i}")
    })
    .await
}

/// CPU of the daemon and of MongoDB, above what MongoDB needs by itself before and after.
async fn measure(
    stage: &Stage,
    plan: &Plan,
    findings: &mut Findings,
    state: &str,
    url: impl Fn(usize) -> String,
) -> Result<()> {
    let fixture = stage
        .fixture_at(plan.endpoints, ([127, 0, 0, 1], 9).into(), url)
        .await?;
    for place in 0..plan.endpoints {
        fixture.backlog(place, EACH).await?;
    }
    tokio::time::sleep(SETTLED).await;
    let before = idle(plan.idle, || stage.mongod_cpu()).await?;
    let process = fixture.daemon().await?;
    tokio::time::sleep(PERIOD).await;
    let together = idle(PERIOD, || Ok(process.cpu()? + stage.mongod_cpu()?)).await?;
    process.stop().await?;
    let after = idle(plan.idle, || stage.mongod_cpu()).await?;
    let alone = f64::midpoint(before, after);
    fixture.drop().await?;
    let what = format!("{} endpoints {state} with deliveries", plan.endpoints);
    findings.note(&format!("{what}: MongoDB without the daemon"), "%", vec![alone]);
    let more = vec![(together - alone).max(0.0)];
    findings.judge(
        &format!("{what}: the daemon, and MongoDB for it"),
        "%",
        more,
        Target::AtMost(0.5),
    );
    Ok(())
}

/// The part of a core that is used.
async fn idle(time: Duration, cpu: impl Fn() -> Result<f64>) -> Result<f64> {
    let (before, began) = (cpu()?, Instant::now());
    tokio::time::sleep(time).await;
    Ok((cpu()? - before) / began.elapsed().as_secs_f64() * 100.0)
}
