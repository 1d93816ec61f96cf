//! One round: work and faults for a while, then peace, then the count.

use std::time::Duration;

use anyhow::Result;
use certhookd::sandbox::ReplicaSet;
use tokio::time::{Instant, sleep};

use super::inject::inject;
use super::plan::{LENGTH, Plan};
use super::platform::{Platform, now};
use super::stage::Stage;
use super::verdict::Verdict;

/// How long all may take to come to rest. The longest that anything waits for by design is a claim of a daemon that was
/// silent for a while, and a retry.
const PEACE_LIMIT: Duration = Duration::from_secs(90);

/// So many complaints are printed.
const SHOWN: usize = 10;

/// Runs the round of that seed, and prints what went wrong and what came of it.
pub async fn run(set: &ReplicaSet, seed: u64) -> Result<Verdict> {
    let began = Instant::now();
    let plan = Plan::new(seed);
    let stage = Stage::new(set, seed, plan.skew_s).await?;
    let mut platform = Platform::create(&stage, seed).await?;
    stage.open().await?;
    let (worked, daemons, surroundings) = tokio::join!(
        platform.work(LENGTH),
        inject(&stage, &plan.daemons),
        inject(&stage, &plan.surroundings)
    );
    worked.and(daemons).and(surroundings)?;
    let verdict = rest(&stage, &mut platform).await?;
    report(seed, &plan, &verdict, began.elapsed());
    if verdict.holds() {
        stage.database.drop().await?;
    } else {
        println!("  the daemons' logs stay in {}", stage.directory.keep().display());
    }
    Ok(verdict)
}

/// Waits until all that should happen has happened, stops the daemons, and counts.
async fn rest(stage: &Stage<'_>, platform: &mut Platform) -> Result<Verdict> {
    let ledger = &mut platform.ledger;
    // Nothing that a daemon still waits for expires later.
    let last = ledger.certificates.values().filter_map(|one| one.expires);
    let last = last.filter(|expires| *expires < now() + 60_000).max().unwrap_or(0);
    sleep(Duration::from_millis(u64::try_from(last - now()).unwrap_or(0))).await;
    ledger.conclude(last);
    let limit = Instant::now() + PEACE_LIMIT;
    while !Verdict::reach(stage, ledger, last).await?.holds() && Instant::now() < limit {
        sleep(Duration::from_millis(200)).await;
    }
    stage.close().await?;
    Verdict::reach(stage, ledger, last).await
}

fn report(seed: u64, plan: &Plan, verdict: &Verdict, took: Duration) {
    println!("seed {seed}: {verdict}; {:.0} s", took.as_secs_f64());
    let names = |steps: &[super::plan::Step]| {
        let names: Vec<_> = steps.iter().map(|(_, fault)| fault.to_string()).collect();
        names.join(", ")
    };
    println!("  {}", names(&plan.daemons));
    println!("  {}", names(&plan.surroundings));
    println!("  clock skew {} s", plan.skew_s);
    for wrong in verdict.wrong.iter().take(SHOWN) {
        println!("  {wrong}");
    }
}
