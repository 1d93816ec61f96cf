//! What operations cost those whom they are not about: a million held deliveries, and a backfill beside live traffic.

use std::time::Instant;

use anyhow::Result;
use bson::{Document, doc};
use mongodb::Collection;

use super::completions::award_for;
use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::{Fixture, Stage};
use crate::statistics::{quantile, ratios};
use crate::usage::Usage;

const ORGANIZATIONS: usize = 10;
/// The index of the one that is held, and of the one that gets a backfill.
const TENTH: usize = ORGANIZATIONS - 1;
/// Deliveries per second of the backfill.
const RATE: i32 = 1_000;

pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    held(stage, plan, findings).await?;
    backfill(stage, plan, findings).await
}

/// The rate of nine organizations while much waits for the tenth, which is held, against the rate while nothing does; and what the
/// daemon costs then while nothing happens.
async fn held(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::AtOnce)?;
    let mut crowded = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
    crowded.backlog(TENTH, plan.hung_backlog).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let mut fixture = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
        without.push(rate(&mut fixture, &receiver, plan.isolation).await?);
        fixture.drop().await?;
        crowded.forget_daemons().await?;
        hold(&crowded).await?;
        with.push(rate(&mut crowded, &receiver, plan.isolation).await?);
    }
    let what = format!("{} held", plan.hung_backlog);
    let ratio = ratios(&with, &without);
    findings.judge(
        &format!("{what}: the others' rate against none"),
        "×",
        ratio,
        Target::AtLeast(0.95),
    );
    tokio::time::sleep(plan.idle / 2).await;
    let alone = Usage::watch(plan.idle, || stage.mongod_cpu()).await?;
    let process = crowded.daemon().await?;
    tokio::time::sleep(plan.idle / 2).await;
    let together = Usage::watch(plan.idle, || Ok(process.cpu()? + stage.mongod_cpu()?)).await?;
    process.stop().await?;
    crowded.drop().await?;
    together.note(&what, findings);
    let more = vec![(together.percent - alone.percent).max(0.0)];
    findings.judge(
        &format!("{what}: idle, the daemon, and MongoDB for it"),
        "%",
        more,
        Target::AtMost(0.5),
    );
    Ok(())
}

async fn hold(fixture: &Fixture) -> Result<()> {
    let state: Collection<Document> = fixture.database.collection("webhook_state");
    let organization = fixture.organizations()[TENTH];
    let hold = doc! { "_id": format!("hold/organization/{organization}"), "by": "the benchmark", "until": null };
    state.insert_one(hold).await?;
    Ok(())
}

/// Events per second of nine organizations.
async fn rate(fixture: &mut Fixture, receiver: &Receiver, events: usize) -> Result<f64> {
    fixture.expired_of(0..TENTH, events).await?;
    let process = fixture.daemon().await?;
    receiver.reset();
    let began = Instant::now();
    process.go()?;
    receiver.wait_for(events).await?;
    let rate = events as f64 / began.elapsed().as_secs_f64();
    process.stop().await?;
    Ok(rate)
}

/// How late awards of the organization are whose endpoint gets a backfill, against those without one.
async fn backfill(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::Stamping)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for (is_backfilled, late) in [(false, &mut without), (true, &mut with)] {
            let mut fixture = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
            fixture.alive(plan.backfilled).await?;
            let process = fixture.daemon().await?;
            if is_backfilled {
                ask_for_backfill(&fixture).await?;
            }
            receiver.reset();
            let inserted = award_for(&fixture, plan.awards, TENTH..ORGANIZATIONS).await?;
            late.push(quantile(&arrived(&receiver, &inserted).await, 0.99));
            process.stop().await?;
            fixture.drop().await?;
        }
    }
    let ratio = ratios(&with, &without);
    let what = format!("awards p99 during a backfill out of {} certificates", plan.backfilled);
    findings.note(&what, "ms", with);
    findings.judge(&format!("{what}, against without"), "×", ratio, Target::AtMost(1.2));
    Ok(())
}

async fn ask_for_backfill(fixture: &Fixture) -> Result<()> {
    let operations: Collection<Document> = fixture.database.collection("webhook_operations");
    let organization = fixture.organizations()[TENTH];
    // Of these organizations the endpoint has the same id.
    let selection = doc! { "endpoint": format!("{organization}/{organization}") };
    let backfill = doc! { "kind": "backfill", "selection": selection, "options": { "ratePerSecond": RATE } };
    operations.insert_one(backfill).await?;
    let running = doc! { "progress.done": { "$gt": 0 } };
    while operations.count_documents(running.clone()).await? == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// How long each of these awards took, in ms, sorted: among much else that comes.
async fn arrived(receiver: &Receiver, inserted: &std::collections::HashMap<String, Instant>) -> Vec<f64> {
    loop {
        let late = receiver.stamps().into_iter().filter_map(|(id, came)| {
            let began = inserted.get(&id)?;
            Some(came.duration_since(*began).as_secs_f64() * 1e3)
        });
        let mut late: Vec<_> = late.collect();
        if late.len() >= inserted.len() {
            late.sort_by(f64::total_cmp);
            return late;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
