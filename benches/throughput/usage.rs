//! How much CPU is used while little happens, on a machine whose neighbours slow it down now and then.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

use crate::report::Findings;
use crate::statistics::quantile;

/// Times per second that the same is calculated.
const CALCULATIONS: u32 = 5;

/// What is hashed each time: some 80 µs.
static HASHED: [u8; 1 << 16] = [0; 1 << 16];

/// A second is left out if the calculations took this many times what they take in most seconds: cores are shared with other
/// machines, and what these slow down counts as CPU time. Three to nine times as much was seen for five seconds. The work
/// of what is watched has no second left out: what lasts less than 0.4 s touches two of five calculations, and their middle ignores these.
const SLOWED_DOWN: f64 = 1.5;

/// One second.
struct Second {
    used: f64,
    lasted: f64,
    /// CPU time of a calculation, the middle of [`CALCULATIONS`].
    calculation: f64,
}

/// What was used in most seconds.
pub struct Usage {
    /// Of a core.
    pub percent: f64,
    /// Seconds that were left out, of all.
    left_out: (usize, usize),
}

impl Usage {
    /// Watches for that long. `cpu` tells how many CPU seconds were used so far.
    pub async fn watch(time: Duration, cpu: impl Fn() -> Result<f64>) -> Result<Self> {
        let mut seconds = Vec::new();
        let began = Instant::now();
        let (mut used, mut since) = (cpu()?, began);
        while began.elapsed() < time {
            let calculation = calculations().await?;
            let (used_now, now) = (cpu()?, Instant::now());
            seconds.push(Second {
                used: used_now - used,
                lasted: (now - since).as_secs_f64(),
                calculation,
            });
            (used, since) = (used_now, now);
        }
        Ok(Self::of(&seconds))
    }

    fn of(seconds: &[Second]) -> Self {
        let limit = SLOWED_DOWN * middle(seconds.iter().map(|second| second.calculation));
        let kept: Vec<_> = seconds.iter().filter(|second| second.calculation <= limit).collect();
        let sum = |of: fn(&Second) -> f64| kept.iter().map(|second| of(second)).sum::<f64>();
        Self {
            percent: sum(|second| second.used) / sum(|second| second.lasted) * 100.0,
            left_out: (seconds.len() - kept.len(), seconds.len()),
        }
    }

    /// Says how many seconds were left out.
    pub fn note(&self, what: &str, findings: &mut Findings) {
        let (left_out, all) = self.left_out;
        let what = format!("{what}: seconds left out of {all}, the machine was slower");
        findings.note(&what, "", vec![left_out as f64]);
    }
}

/// Takes a second.
async fn calculations() -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..CALCULATIONS {
        tokio::time::sleep(Duration::from_secs(1) / CALCULATIONS).await;
        let began = thread_cpu()?;
        black_box(Sha256::digest(black_box(&HASHED)));
        took.push(thread_cpu()? - began);
    }
    Ok(middle(took.into_iter()))
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// CPU seconds of this thread so far.
fn thread_cpu() -> Result<f64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?).as_secs_f64())
}
