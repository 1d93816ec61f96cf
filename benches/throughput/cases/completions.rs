//! Awards: from the insert in MongoDB to the request at the receiver, 200 a second.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::model::Clock;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::baseline;
use crate::plan::Plan;
use crate::process::Process;
use crate::receiver::{Manner, Receiver};
use crate::report::{Chart, Curve, Findings, Target};
use crate::stage::{Fixture, Stage};
use crate::statistics::{quantile, ratios};

const ORGANIZATIONS: usize = 10;
/// 200 a second.
const EVERY: Duration = Duration::from_millis(5);

/// Latencies in ms, sorted.
pub type Latencies = Vec<f64>;

/// Against the bare stream.
pub async fn run(stage: &Stage, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start(Manner::Stamping)?;
    let (mut bare, mut daemon, mut two) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let fixture = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
        let stream = fixture.baseline(baseline::STREAM).await?;
        bare.push(measure(fixture, vec![stream], &receiver, plan.awards).await?);
        let fixture = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
        let process = fixture.daemon().await?;
        daemon.push(measure(fixture, vec![process], &receiver, plan.awards).await?);
        let fixture = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
        let pair = vec![fixture.daemon().await?, fixture.daemon().await?];
        fixture.shared(2).await?;
        two.push(measure(fixture, pair, &receiver, plan.awards).await?);
    }
    for (name, part, most) in [("p50", 0.5, 1.8), ("p99", 0.99, 2.0)] {
        let of = |runs: &[Latencies]| runs.iter().map(|run| quantile(run, part)).collect::<Vec<_>>();
        findings.note(&format!("completions {name}: bare stream"), "ms", of(&bare));
        findings.note(&format!("completions {name}: certhookd"), "ms", of(&daemon));
        let ratio = ratios(&of(&daemon), &of(&bare));
        let what = format!("completions {name} against the bare stream");
        findings.judge(&what, "×", ratio, Target::AtMost(most));
    }
    findings.judge(
        "completions p99: two instances",
        "ms",
        two.iter().map(|run| quantile(run, 0.99)).collect(),
        Target::AtMost(250.0),
    );
    findings.curves.push(curve("bare stream", bare));
    findings.curves.push(curve("certhookd", daemon));
    Ok(())
}

async fn measure(fixture: Fixture, processes: Vec<Process>, receiver: &Receiver, awards: usize) -> Result<Latencies> {
    let latencies = latencies(&fixture, receiver, awards, ORGANIZATIONS).await?;
    for process in processes {
        process.stop().await?;
    }
    fixture.drop().await?;
    Ok(latencies)
}

/// Of awards to the first `organizations` of the fixture.
pub async fn latencies(
    fixture: &Fixture,
    receiver: &Receiver,
    awards: usize,
    organizations: usize,
) -> Result<Latencies> {
    receiver.reset();
    let inserted = award_for(fixture, awards, 0..organizations).await?;
    receiver.wait_for(awards).await?;
    let mut latencies = Vec::with_capacity(awards);
    for (id, came) in receiver.stamps() {
        let began = inserted.get(&id).context("a request for no certificate of this case")?;
        latencies.push(came.duration_since(*began).as_secs_f64() * 1e3);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Inserts one every [`EVERY`], whether or not the one before is confirmed; returns when each insert was begun.
pub async fn award_for(
    fixture: &Fixture,
    awards: usize,
    organizations: Range<usize>,
) -> Result<HashMap<String, Instant>> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut inserts = JoinSet::new();
    let mut began = HashMap::with_capacity(awards);
    for i in 0..awards {
        ticks.tick().await;
        let (id, collection) = (ObjectId::new(), fixture.badge_users());
        let document = award(
            id,
            fixture.organizations()[organizations.start + i % organizations.len()],
        );
        began.insert(id.to_hex(), Instant::now());
        inserts.spawn(async move { collection.insert_one(document).await });
    }
    while let Some(inserted) = inserts.join_next().await {
        inserted??;
    }
    Ok(began)
}

fn award(id: ObjectId, organization: ObjectId) -> Document {
    let now = Clock::local();
    doc! {
        "_id": id, "_userId": ObjectId::new(), "_ownerId": organization, "_badgeId": ObjectId::new(),
        "creationDate": now, "expires": null, "disabled": false, "expiryReminderSent": false,
        "_lessonActiveIds": [ObjectId::new(), ObjectId::new()],
        "ruleData": { "type": "learningPath", "name": "First aid at work", "description": "All lessons", "validityDurationDays": 365 },
        "createdAt": now, "updatedAt": now, "__v": 0,
    }
}

/// The distribution of all runs together, one point for each percent.
fn curve(label: &str, runs: Vec<Latencies>) -> Curve {
    let mut all: Vec<_> = runs.into_iter().flatten().collect();
    all.sort_by(f64::total_cmp);
    let point = |percent: u32| (f64::from(percent), quantile(&all, f64::from(percent) / 100.0));
    Curve {
        chart: Chart::Latency,
        label: label.to_owned(),
        points: (0..100).map(point).collect(),
    }
}
