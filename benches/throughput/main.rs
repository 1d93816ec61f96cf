//! The daemon against the barest loops that do the same, over the same MongoDB and receiver:
//!
//! ```text
//! cargo bench --bench throughput -- --quick
//! ```
//!
//! Starts everything itself, on loopback alone. Prints a table of ratios, each formed pair by pair within this run, and
//! writes it as `throughput.json` and `throughput.svg` into `--out`. No figure makes it fail: whether a target was reached
//! is printed beside it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "people read it")]
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]

mod baseline;
mod cases;
mod picture;
mod plan;
mod process;
mod profiler;
mod receiver;
mod report;
mod stage;
mod statistics;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use plan::Plan;
use report::{Findings, Target};
use stage::Stage;

/// Measures certhookd against the barest loops that do the same.
#[derive(Debug, Parser)]
struct Args {
    /// Smaller sizes and fewer repetitions, under two minutes, without the long cases.
    #[arg(long)]
    quick: bool,
    /// Only these cases; without it all that belong to the form.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// Another binary of certhookd, for the case `shapes`.
    #[arg(long)]
    other: Option<PathBuf>,
    /// Where the results are written.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// What cargo says of its own accord.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// A backlog against the bare loop: rate and CPU time.
    Backlog,
    /// A backlog before a receiver that takes 50 ms.
    Slow,
    /// Awards against the bare stream: latency.
    Completions,
    /// Start, empty scans and idling among certificates that are alive.
    Quiet,
    /// 2,000 organizations, and one alone, against another binary. Long.
    Shapes,
    /// Ten thousand endpoints out of service, with deliveries: idle CPU. Long.
    OutOfService,
    /// The same of suspended ones. Long.
    Suspended,
    /// An endpoint that wants 100 requests per second. Long.
    Rate,
    /// Two daemons against one. Long.
    Two,
    /// Nine endpoints while the tenth is hung, without and with a million deliveries that wait for it. Long.
    Isolation,
    /// A million held deliveries, and a backfill beside live traffic. Long.
    Operations,
    /// Ten thousand endpoints at a host each: memory and open files. Long.
    Endpoints,
    /// A backlog of a million: cost and memory. Long; nothing in the quick form.
    Growth,
    /// The size of the binary.
    Binary,
}

impl Args {
    fn cases(&self) -> Vec<Case> {
        let is_long = |case: &Case| {
            use Case::{Endpoints, Growth, Isolation, Operations, OutOfService, Rate, Shapes, Suspended, Two};
            matches!(
                case,
                Two | Isolation | Operations | Endpoints | Growth | Shapes | OutOfService | Suspended | Rate
            )
        };
        let all = Case::value_variants().iter().copied();
        match self.only.as_slice() {
            [] => all.filter(|case| !(self.quick && is_long(case))).collect(),
            only => only.to_vec(),
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match baseline::part(&arguments) {
        Some(part) => runtime.block_on(part),
        None => runtime.block_on(measure(Args::parse())),
    }
}

async fn measure(args: Args) -> Result<()> {
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let stage = Stage::start().await?;
    let mut findings = Findings {
        machine: stage.machine().await?,
        form: if args.quick { "quick" } else { "full" },
        ..Findings::default()
    };
    for case in args.cases() {
        let name = case.to_possible_value().map(|value| value.get_name().to_owned());
        run(case, &stage, &plan, args.other.as_deref(), &mut findings)
            .await
            .with_context(|| format!("the case {}", name.unwrap_or_default()))?;
    }
    println!("\n{}", findings.table());
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(
        args.out.join("throughput.json"),
        serde_json::to_string_pretty(&findings)?,
    )?;
    std::fs::write(args.out.join("throughput.svg"), picture::draw(&findings))?;
    println!("written to {}", args.out.display());
    Ok(())
}

async fn run(case: Case, stage: &Stage, plan: &Plan, other: Option<&Path>, findings: &mut Findings) -> Result<()> {
    match case {
        Case::Backlog => cases::backlog::fast(stage, plan, findings).await,
        Case::Slow => cases::backlog::slow(stage, plan, findings).await,
        Case::Completions => cases::completions::run(stage, plan, findings).await,
        Case::Quiet => cases::quiet::run(stage, plan, findings).await,
        Case::Shapes => cases::shapes::run(stage, plan, other, findings).await,
        Case::OutOfService => cases::waiting::out_of_service(stage, plan, findings).await,
        Case::Suspended => cases::waiting::suspended(stage, plan, findings).await,
        Case::Rate => cases::rate::run(stage, plan, findings).await,
        Case::Two => cases::two::run(stage, plan, findings).await,
        Case::Isolation => cases::isolation::run(stage, plan, findings).await,
        Case::Operations => cases::operations::run(stage, plan, findings).await,
        Case::Endpoints => cases::endpoints::run(stage, plan, findings).await,
        Case::Growth => cases::growth::run(stage, plan, findings).await,
        Case::Binary => {
            let size = process::size(stage::DAEMON)?;
            findings.judge("release binary", "MB", vec![size], Target::AtMost(15.0));
            Ok(())
        }
    }
}
