//! Ten endpoints of which one hangs: what the other nine lose by it.

use std::time::Instant;

use anyhow::Result;

use crate::plan::Plan;
use crate::receiver::{Manner, Receiver};
use crate::report::{Findings, Target};
use crate::stage::{Fixture, Stage};
use crate::statistics::ratios;

const ORGANIZATIONS: usize = 10;
/// The place of the one that may hang.
const TENTH: usize = ORGANIZATIONS - 1;

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
    findings.judge(&what, "×", crowded_ratio, Target::AtLeast(0.9));
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
    let theirs = events / ORGANIZATIONS * TENTH;
    nine.reset();
    let began = Instant::now();
    process.go()?;
    nine.wait_for(theirs).await?;
    let seconds = began.elapsed().as_secs_f64();
    process.stop().await?;
    Ok(theirs as f64 / seconds)
}
