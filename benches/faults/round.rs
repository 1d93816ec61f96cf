//! One round: work and faults for a while, then peace, then the count.

use std::time::Duration;

use anyhow::Result;
use certhookd::sandbox::ReplicaSet;
use tokio::time::{Instant, sleep};

use super::inject::inject;
use super::plan::Plan;
use super::platform::{Platform, now};
use super::stage::Stage;
use super::verdict::Verdict;

/// How long all may take to come to rest. By design a minute passes until a transaction of a killed instance ends whose session nobody
/// may end, and until a batch is sent again whose results MongoDB refused.
const PEACE_LIMIT: Duration = Duration::from_secs(180);

/// Complaints that are printed, at most.
const SHOWN: usize = 10;

/// Runs the round of that seed, and prints what went wrong and what came of it.
pub async fn run(set: &ReplicaSet, seed: u64, instances: usize) -> Result<Verdict> {
    let began = Instant::now();
    let plan = Plan::new(seed, instances);
    let stage = Stage::new(set, seed, &plan).await?;
    let verdict = match work(&stage, seed, &plan).await {
        Ok(verdict) => verdict,
        Err(error) => {
            print!("seed {seed}: {error}\n{plan}");
            keep_logs(stage);
            return Err(error);
        }
    };
    println!("seed {seed}: {verdict}; {:.0} s", began.elapsed().as_secs_f64());
    print!("{plan}");
    for wrong in verdict.wrong.iter().take(SHOWN) {
        println!("  {wrong}");
    }
    if verdict.holds() {
        stage.database.drop().await?;
    } else {
        keep_logs(stage);
    }
    Ok(verdict)
}

fn keep_logs(stage: Stage<'_>) {
    println!("  the daemons' logs stay in {}", stage.directory.keep().display());
}

/// Work and faults side by side, until all is at rest.
async fn work(stage: &Stage<'_>, seed: u64, plan: &Plan) -> Result<Verdict> {
    let mut platform = Platform::create(stage, seed, plan).await?;
    stage.open().await?;
    let (worked, instances, surroundings, losses) = tokio::join!(
        platform.work(plan.length()),
        inject(stage, &plan.instances),
        inject(stage, &plan.surroundings),
        inject(stage, &plan.losses)
    );
    worked.and(instances).and(surroundings).and(losses)?;
    rest(stage, &mut platform, plan).await
}

/// Waits until all that should happen has happened, stops the daemons, and counts.
async fn rest(stage: &Stage<'_>, platform: &mut Platform, plan: &Plan) -> Result<Verdict> {
    let (ledger, rules) = (&mut platform.ledger, plan.rules());
    stage.respond_at_once();
    stage.revive().await?;
    // Nothing that a daemon still waits for expires later.
    let last = ledger.certificates.values().filter_map(|one| one.expires);
    let last = last.filter(|expires| *expires < now() + 60_000).max().unwrap_or(0);
    sleep(Duration::from_millis(u64::try_from(last - now()).unwrap_or(0))).await;
    ledger.conclude(last);
    let limit = Instant::now() + PEACE_LIMIT;
    while !Verdict::reach(stage, ledger, &rules, last).await?.holds() && Instant::now() < limit {
        sleep(Duration::from_millis(500)).await;
    }
    stage.close().await?;
    let mut verdict = Verdict::reach(stage, ledger, &rules, last).await?;
    verdict.close(stage);
    Ok(verdict)
}
