//! How late the daemon tells of an expiry although it is scheduled hourly:
//!
//! ```text
//! cargo bench --bench precise -- --quick
//! ```
//!
//! Starts everything itself, on loopback alone. Prints the lateness, from `expires` to the arrival at a receiver that
//! answers at once, and how many certificates that were changed a second before their old instant were told of at it.
//! Writes both, each request's lateness too, as `precise.json` into `--out`. No figure makes it fail.
#![allow(clippy::print_stdout, reason = "people read it")]
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]

#[allow(dead_code, reason = "shared with the bench of throughput, as are the next three")]
#[path = "../throughput/process.rs"]
mod process;
#[allow(dead_code, reason = "shared")]
#[path = "../throughput/report.rs"]
mod report;
#[allow(dead_code, reason = "shared")]
#[path = "../throughput/stage.rs"]
mod stage;
#[allow(dead_code, reason = "shared")]
#[path = "../throughput/statistics.rs"]
mod statistics;

mod arrivals;
mod timeline;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use certhookd::model::Clock;
use certhookd::sandbox::Receiver;
use clap::Parser;

use arrivals::Arrivals;
use report::Findings;
use stage::{DAEMON, Stage};
use timeline::{Plan, Timeline};

const ORGANIZATIONS: usize = 10;
const HOURLY: &str = "0 0 * * * *";

/// From the writing of the timeline to its beginning: the daemon starts meanwhile.
const PROLOGUE: Duration = Duration::from_secs(15);

/// How much longer than the timeline the last request may take, and how long is listened for one too many.
const LIMIT: Duration = Duration::from_secs(60);
const EPILOGUE: Duration = Duration::from_secs(1);

/// Measures how late expiries are told of.
#[derive(Debug, Parser)]
struct Args {
    /// 100 certificates over 6 seconds instead of 1,000 over a minute.
    #[arg(long)]
    quick: bool,
    /// Daemons that share the endpoints.
    #[arg(long, default_value_t = 1)]
    instances: usize,
    /// Where the results are written.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// What cargo says of its own accord.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let stage = Stage::start().await?;
    let mut findings = Findings {
        machine: stage.machine().await?,
        form: if args.quick { "quick" } else { "full" },
        ..Findings::default()
    };
    play(&stage, plan, args.instances).await?.report(plan, &mut findings);
    println!("\n{}", findings.table());
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("precise.json"), serde_json::to_string_pretty(&findings)?)?;
    println!("written to {}", args.out.display());
    Ok(())
}

async fn play(stage: &Stage, plan: Plan, instances: usize) -> Result<Arrivals> {
    let receiver = Receiver::start()?;
    let mut fixture = stage.fixture(ORGANIZATIONS, receiver.address()).await?;
    let start = Clock::local().saturating_add_duration(PROLOGUE);
    let timeline = Timeline::new(plan, start, &mut fixture.bulk)?;
    fixture.badge_users().insert_many(timeline.before()).await?;
    let mut daemons = Vec::new();
    for _ in 0..instances {
        daemons.push(fixture.start(DAEMON, HOURLY).await?);
    }
    fixture.shared(instances as u64).await?;
    timeline.play(&fixture.badge_users()).await?;
    timeline.ended().await;
    let complete = receiver.wait_for(|requests| timeline.is_complete(requests), LIMIT);
    complete.await.context("not every expiry was told of")?;
    tokio::time::sleep(EPILOGUE).await;
    for daemon in daemons {
        daemon.stop().await?;
    }
    fixture.drop().await?;
    Ok(Arrivals::new(&timeline, &receiver.requests()))
}
