//! What a round will do, from its seed alone.

use std::time::Duration;

use fastrand::Rng;

use super::fault::{Fault, Kind, Victims};
use super::platform::PATHS;

/// For so long things happen and go wrong; then all is mended.
pub const LENGTH: Duration = Duration::from_secs(15);

/// Each daemon alone, and both: mostly one.
const VICTIMS: [Victims; 5] = [&[0], &[0], &[1], &[1], &[0, 1]];

/// The steps of the protocol at which the daemon can be killed: see `src/kill_point.rs`.
const STEPS: [&str; 9] = [
    "to-be-committed",
    "taken",
    "appended",
    "token-to-be-saved",
    "token-saved",
    "claimed",
    "to-be-sent",
    "sent",
    "recorded",
];

/// A fault, and the pause before it.
pub type Step = (Duration, Fault);

/// Two lanes of faults, each one after the other, both at the same time.
#[derive(Debug)]
pub struct Plan {
    /// What happens to the daemons.
    pub daemons: Vec<Step>,
    /// What happens around them.
    pub surroundings: Vec<Step>,
    /// By how many seconds the second daemon's clock is wrong.
    pub skew_s: i64,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        Self {
            daemons: lane(&mut random, daemon_fault),
            surroundings: lane(&mut random, surrounding_fault),
            skew_s: pick(&mut random, &[0, 3, -3, 45, -45, 900, -900]),
        }
    }
}

fn lane(random: &mut Rng, mut fault: impl FnMut(&mut Rng) -> Fault) -> Vec<Step> {
    let (mut steps, mut at) = (Vec::new(), Duration::ZERO);
    loop {
        let step = (seconds(random, 0.2, 3.0), fault(random));
        at += step.0;
        if at >= LENGTH {
            return steps;
        }
        at += step.1.lasts;
        steps.push(step);
    }
}

fn daemon_fault(random: &mut Rng) -> Fault {
    let (kind, lasts) = match random.u8(0..8) {
        0 | 1 => (Kind::Kill(pick(random, &VICTIMS)), seconds(random, 0.0, 3.0)),
        2..=4 => (
            Kind::KillAt(random.usize(0..2), pick(random, &STEPS)),
            seconds(random, 1.0, 4.0),
        ),
        5 => (Kind::Terminate(pick(random, &VICTIMS)), seconds(random, 0.0, 3.0)),
        // Longer than `cluster::ALIVE`: it counts as dead meanwhile.
        6 => (Kind::Freeze(random.usize(0..2)), seconds(random, 11.0, 14.0)),
        _ => (Kind::Freeze(random.usize(0..2)), seconds(random, 0.5, 4.0)),
    };
    Fault { kind, lasts }
}

fn surrounding_fault(random: &mut Rng) -> Fault {
    let (kind, lasts) = match random.u8(0..7) {
        0 => (Kind::KillMongod, seconds(random, 0.0, 3.0)),
        1 => (Kind::StepDown, Duration::from_secs(random.u64(1..4))),
        2 => (Kind::Cut(pick(random, &VICTIMS)), seconds(random, 0.0, 5.0)),
        3 => (Kind::BlackHole(pick(random, &VICTIMS)), seconds(random, 1.0, 5.0)),
        4 => (Kind::BlackHole(pick(random, &VICTIMS)), seconds(random, 11.0, 13.0)),
        5 => (Kind::Refuse(pick(random, &PATHS)), seconds(random, 0.5, 5.0)),
        _ => (Kind::Hang(pick(random, &PATHS)), seconds(random, 0.5, 5.0)),
    };
    Fault { kind, lasts }
}

fn seconds(random: &mut Rng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(from + (to - from) * random.f64())
}

fn pick<T: Copy>(random: &mut Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}
