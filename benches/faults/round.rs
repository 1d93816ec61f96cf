//! One round: work and faults for a while, then peace, then the count.

use std::time::Duration;

use anyhow::Result;
use certhookd::sandbox::ReplicaSet;
use tokio::time::{Instant, sleep};

use super::fixture::Fixture;
use super::inject::inject;
use super::plan::Plan;
use super::platform::{Platform, now};
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
    let fixture = Fixture::new(set, seed, &plan).await?;
    let verdict = match work(&fixture, seed, &plan).await {
        Ok(verdict) => verdict,
        Err(error) => {
            print!("seed {seed}: {error}\n{plan}");
            keep_logs(fixture);
            return Err(error);
        }
    };
    println!("seed {seed}: {verdict}; {:.0} s", began.elapsed().as_secs_f64());
    print!("{plan}");
    for wrong in verdict.wrong.iter().take(SHOWN) {
        println!("  {wrong}");
    }
    if verdict.holds() {
        fixture.database.drop().await?;
    } else {
        keep_logs(fixture);
    }
    Ok(verdict)
}

fn keep_logs(fixture: Fixture<'_>) {
    println!("  the daemons' logs stay in {}", fixture.directory.keep().display());
}

/// Work and faults side by side, until all is at rest.
async fn work(fixture: &Fixture<'_>, seed: u64, plan: &Plan) -> Result<Verdict> {
    let mut platform = Platform::create(fixture, seed, plan).await?;
    fixture.open().await?;
    let (worked, instances, surroundings, losses) = tokio::join!(
        platform.work(plan.length()),
        inject(fixture, &plan.instances),
        inject(fixture, &plan.surroundings),
        inject(fixture, &plan.losses)
    );
    worked.and(instances).and(surroundings).and(losses)?;
    rest(fixture, &mut platform, plan).await
}

/// Waits until all that should happen has happened, stops the daemons, and counts.
async fn rest(fixture: &Fixture<'_>, platform: &mut Platform, plan: &Plan) -> Result<Verdict> {
    let (ledger, rules) = (&mut platform.ledger, plan.rules());
    fixture.respond_at_once();
    fixture.revive().await?;
    // Nothing that a daemon still waits for expires later.
    let last = ledger.certificates.values().filter_map(|one| one.expires);
    let last = last.filter(|expires| *expires < now() + 60_000).max().unwrap_or(0);
    sleep(Duration::from_millis(u64::try_from(last - now()).unwrap_or(0))).await;
    ledger.conclude(last);
    let limit = Instant::now() + PEACE_LIMIT;
    while !Verdict::reach(fixture, ledger, &rules, last).await?.holds() && Instant::now() < limit {
        sleep(Duration::from_millis(500)).await;
    }
    fixture.close().await?;
    let mut verdict = Verdict::reach(fixture, ledger, &rules, last).await?;
    verdict.close(fixture);
    Ok(verdict)
}
