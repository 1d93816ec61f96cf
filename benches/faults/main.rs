//! Accidents at random over two daemons at work, and then the count: is anything lost?
//!
//! ```text
//! cargo test --bench faults -- --seed 1 --rounds 3
//! ```
//!
//! The same with `cargo bench` takes the optimized build, and its time to build.
//!
//! Starts everything itself, on loopback alone. Each round takes its faults and its work from its own seed, the first
//! from `--seed`, the next from the one after: a round that failed is repeated by its seed with `--rounds 1`. Exits with 1
//! if a round lost an event, sent one that should not be, or left a certificate or a delivery in a wrong state.
#![allow(clippy::print_stdout, reason = "people read it")]
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]

mod daemon;
mod fault;
mod inject;
mod ledger;
mod plan;
mod platform;
mod round;
mod skew;
mod stage;
mod verdict;

use std::process::ExitCode;

use anyhow::{Context, Result};
use certhookd::sandbox::{Options, ReplicaSet};
use clap::Parser;

use verdict::Verdict;

/// Breaks what certhookd depends on, and certhookd itself, and counts what is lost.
#[derive(Debug, Parser)]
struct Args {
    /// The seed of the first round.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many rounds, of about half a minute each.
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// What cargo says of its own accord.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let set = ReplicaSet::start(Options::default()).await?;
    if skew::library().is_none() {
        println!("clock skew is left out: it needs the package libfaketime");
    }
    let (mut sum, mut failed) = (Verdict::default(), Vec::new());
    for seed in args.seed..args.seed + args.rounds {
        let verdict = round::run(&set, seed)
            .await
            .with_context(|| format!("the round of seed {seed}"))?;
        if !verdict.holds() {
            failed.push(seed);
        }
        sum += verdict;
    }
    println!("\nseed {}, {} rounds: {sum}", args.seed, args.rounds);
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed with the seeds {failed:?}");
    Ok(ExitCode::FAILURE)
}
