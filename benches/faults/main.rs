//! Accidents at random over several instances at work, and then the count: is anything lost?
//!
//! ```text
//! cargo test --bench faults -- --seed 1 --rounds 3 --instances 2
//! ```
//!
//! A backfill of that many certificates, which takes some minutes, in place of the rounds:
//!
//! ```text
//! cargo test --bench faults -- --backfill 100000
//! ```
//!
//! The same with `cargo bench` takes the optimized build, and its time to build.
//!
//! Starts everything itself, on loopback alone. Each round takes its faults and its work from its own seed, the first
//! from `--seed`, the next from the one after: a round that failed is repeated by its seed with `--rounds 1` and the same
//! number of instances. Exits with 1 if a round lost an event, sent one that should not be, had more than five requests open to an
//! endpoint at once, or left a certificate or a delivery in a wrong state.
#![allow(clippy::print_stdout, reason = "people read it")]
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]

mod backfill;
#[path = "../../tests/it/backfill/busy.rs"]
mod busy;
mod crowd;
mod daemon;
mod fault;
mod fixture;
mod freeze;
mod inject;
mod ledger;
mod login;
mod outbox;
mod plan;
mod platform;
mod round;
mod rule;
mod skew;
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
    /// How many rounds, of about a minute each.
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// How many instances run.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    instances: u8,
    /// Instead of rounds, has that many certificates go out by a backfill, while they are awarded, renewed and deleted and instances
    /// are killed.
    #[arg(long, value_name = "CERTIFICATES")]
    backfill: Option<usize>,
    /// Prints the rounds' faults and runs none.
    #[arg(long)]
    plan: bool,
    /// What cargo says of its own accord.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let instances = usize::from(args.instances);
    let seeds = args.seed..args.seed + args.rounds;
    if args.plan {
        seeds.for_each(|seed| print!("seed {seed}\n{}", plan::Plan::new(seed, instances)));
        return Ok(ExitCode::SUCCESS);
    }
    let set = ReplicaSet::start(Options {
        login: true,
        ..Options::default()
    })
    .await?;
    if let Some(count) = args.backfill {
        let holds = backfill::run(&set, count, instances).await?;
        return Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if skew::library().is_none() {
        println!("clock skew is left out: it needs the package libfaketime");
    }
    let (mut sum, mut failed) = (Verdict::default(), Vec::new());
    for seed in seeds {
        let verdict = round::run(&set, seed, instances)
            .await
            .with_context(|| format!("the round of seed {seed}"))?;
        if !verdict.holds() {
            failed.push(seed);
        }
        sum += verdict;
    }
    println!(
        "\nseed {}, {} rounds, {instances} instances: {sum}",
        args.seed, args.rounds
    );
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed with the seeds {failed:?}");
    Ok(ExitCode::FAILURE)
}
