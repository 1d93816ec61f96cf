//! Ten endpoints of which one hangs: what the other nine lose by it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::completions::latencies;
use crate::plan::Plan;
use crate::process::Process;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::{Fixture, Stage};
use crate::statistics::{quantile, ratios};

const ORGANIZATIONS: usize = 10;
/// The index of the one that may hang.
const TENTH: usize = ORGANIZATIONS - 1;
/// Endpoints of one organization that are no good.
const MANY: usize = 200;
/// Deliveries that wait for each of them.
const EACH: usize = 20;
/// Requests to them after which they take all that they may: an eighth of `max_in_flight`.
const BEGUN: usize = 32;
/// Their timeout, in ms, and how long a slow one takes.
const TIMEOUT: i32 = 3_000;
const ALMOST: Duration = Duration::from_millis(2_900);

/// The rate of the nine while the tenth is well, while it hangs, and while it hangs with a large backlog.
pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let nine = Receiver::start(Manner::AtOnce)?;
    let (well, hung) = (Receiver::start(Manner::AtOnce)?, Receiver::start(Manner::Never)?);
    let mut crowded = fixture(stage, &nine, &hung).await?;
    crowded.backlog(TENTH, plan.hung_backlog).await?;
    let (mut before, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for (tenth, rates) in [(&well, &mut before), (&hung, &mut without)] {
            let mut fixture = fixture(stage, &nine, tenth).await?;
            rates.push(rate(&mut fixture, &nine, plan.isolation).await?);
            fixture.drop().await?;
        }
        crowded.forget_daemons().await?;
        with.push(rate(&mut crowded, &nine, plan.isolation).await?);
    }
    crowded.drop().await?;
    let hangs = format!("it hangs, {} waiting", plan.hung_backlog);
    let (ratio, crowded_ratio) = (ratios(&without, &before), ratios(&with, &before));
    findings.note("9 of 10 endpoints, the tenth well", "events/s", before);
    findings.note("9 of 10 endpoints, it hangs", "events/s", without);
    findings.note(&format!("9 of 10 endpoints, {hangs}"), "events/s", with);
    findings.judge(
        "9 of 10 endpoints: it hangs against well",
        "×",
        ratio,
        Target::AtLeast(0.9),
    );
    let what = format!("9 of 10 endpoints: {hangs}, against well");
    findings.judge(&what, "×", crowded_ratio, Target::AtLeast(0.95));
    for (what, manner) in [("hung", Manner::Never), ("slow", Manner::After(ALMOST))] {
        many(stage, plan, findings, what, manner).await?;
    }
    Ok(())
}

/// The rate of nine organizations, and how late their awards are, while the tenth has two hundred endpoints that are hung or
/// respond just before their timeout, against the rate while it has none.
async fn many(stage: &Stage, plan: &Plan, findings: &mut Findings, what: &str, manner: Manner) -> Result<()> {
    let (nine, many) = (Receiver::start(Manner::Stamping)?, Receiver::start(manner)?);
    let (mut without, mut with, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for has_many in [false, true] {
            let mut fixture = fixture(stage, &nine, &nine).await?;
            let url = format!("http://{}/", many.address());
            let endpoints = if has_many { MANY } else { 0 };
            fixture.endpoints(TENTH, endpoints, &url, TIMEOUT, EACH).await?;
            fixture.expired_of(0..TENTH, plan.isolation).await?;
            many.reset();
            let process = fixture.daemon().await?;
            if has_many {
                many.wait_for(BEGUN).await?;
            }
            let rate = timed(&process, &nine, plan.isolation).await?;
            if has_many {
                with.push(rate);
                late.push(quantile(&latencies(&fixture, &nine, plan.awards, TENTH).await?, 0.99));
            } else {
                without.push(rate);
            }
            process.stop().await?;
            fixture.drop().await?;
        }
    }
    let ratio = ratios(&with, &without);
    let row = |rest: &str| format!("9 organizations, the tenth has {MANY} {what} endpoints: {rest}");
    findings.judge(&row("rate against none"), "×", ratio, Target::AtLeast(0.9));
    findings.judge(&row("p99 of an award"), "ms", late, Target::AtMost(1_000.0));
    Ok(())
}

async fn fixture(stage: &Stage, nine: &Receiver, tenth: &Receiver) -> Result<Fixture> {
    let url = |i| {
        let receiver = if i == TENTH { tenth } else { nine };
        format!("http://{}/{i}", receiver.address())
    };
    stage.fixture_at(ORGANIZATIONS, nine.address(), url).await
}

/// Events a second of the nine, from the signal that starts the scan to the last request.
async fn rate(fixture: &mut Fixture, nine: &Receiver, events: usize) -> Result<f64> {
    fixture.expired(events).await?;
    let process = fixture.daemon().await?;
    let rate = timed(&process, nine, events / ORGANIZATIONS * TENTH).await?;
    process.stop().await?;
    Ok(rate)
}

/// Events a second, of the `events` that come to these endpoints.
async fn timed(process: &Process, nine: &Receiver, events: usize) -> Result<f64> {
    nine.reset();
    let began = Instant::now();
    process.go()?;
    nine.wait_for(events).await?;
    Ok(events as f64 / began.elapsed().as_secs_f64())
}
