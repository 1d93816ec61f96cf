//! Endpoints for which something waits that must not be sent: what they cost while nothing happens.

use std::time::Duration;

use anyhow::Result;

use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::Stage;
use crate::usage::Usage;

/// After this MongoDB has written down what was inserted.
const SETTLED: Duration = Duration::from_secs(60);

/// The longest time between two looks at all queues (`LONGEST_ALONE` in `fetcher/looks.rs`). The pauses double from 2 s on, so it takes as
/// long after a start until they are that long.
const PERIOD: Duration = Duration::from_secs(256);

/// Deliveries for each of them.
const EACH: usize = 3;

/// Endpoints whose URL is of a scheme that is not served.
pub async fn out_of_service(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    measure(stage, plan, findings, "out of service", |i| format!("ftp://h/{i}")).await
}

/// Endpoints that answer their first request with a 410, and are suspended from then on.
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
    let before = Usage::watch(plan.idle, || stage.mongod_cpu()).await?;
    let process = fixture.daemon().await?;
    tokio::time::sleep(PERIOD).await;
    let together = Usage::watch(PERIOD, || Ok(process.cpu()? + stage.mongod_cpu()?)).await?;
    process.stop().await?;
    let after = Usage::watch(plan.idle, || stage.mongod_cpu()).await?;
    let alone = f64::midpoint(before.percent, after.percent);
    fixture.drop().await?;
    let what = format!("{} endpoints {state} with deliveries", plan.endpoints);
    findings.note(&format!("{what}: MongoDB without the daemon"), "%", vec![alone]);
    together.note(&what, findings);
    let more = vec![(together.percent - alone).max(0.0)];
    findings.judge(
        &format!("{what}: the daemon, and MongoDB for it"),
        "%",
        more,
        Target::AtMost(0.5),
    );
    Ok(())
}
