//! An endpoint with a rate: how close to it the daemon keeps, over two instances of which one ends meanwhile.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::Stage;

/// Requests per second.
const RATE: usize = 100;

/// Once: a hundred seconds' worth in the full form.
pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::Stamping)?;
    let mut fixture = stage.fixture(1, receiver.address()).await?;
    fixture.limit_rate(RATE).await?;
    fixture.expired(plan.paced).await?;
    let (first, second) = (fixture.daemon().await?, fixture.daemon().await?);
    fixture.shared(2).await?;
    receiver.reset();
    let began = Instant::now();
    first.go()?;
    receiver.wait_for(plan.paced / 2).await?;
    // If the endpoint is its, the other one takes over.
    first.stop().await?;
    receiver.wait_for(plan.paced).await?;
    let seconds = began.elapsed().as_secs_f64();
    second.stop().await?;
    fixture.drop().await?;
    let what = |rest: &str| format!("{} events at {RATE} per second: {rest}", plan.paced);
    let ideal = plan.paced as f64 / RATE as f64;
    findings.judge(
        &what("time against the ideal"),
        "×",
        vec![seconds / ideal],
        Target::AtMost(1.05),
    );
    let mut at: Vec<_> = receiver.stamps().into_iter().map(|(_, at)| at).collect();
    at.sort_unstable();
    findings.judge(
        &what("the most in any second"),
        "",
        vec![most_in_a_second(&at) as f64],
        Target::AtMost(RATE as f64 * 1.05),
    );
    Ok(())
}

/// `at` is sorted.
fn most_in_a_second(at: &[Instant]) -> usize {
    let from = |(place, first): (usize, &Instant)| {
        let end = *first + Duration::from_secs(1);
        at[place..].iter().take_while(|other| **other < end).count()
    };
    at.iter().enumerate().map(from).max().unwrap_or(0)
}
