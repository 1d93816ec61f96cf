//! What a round will do, from its seed and the number of instances alone.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::fault::{Fault, Kind, Victims};
use super::platform::PATHS;
use super::rule::Rule;

/// Faults begin within this time; those under way then go on to their end.
const LENGTH: Duration = Duration::from_secs(15);

/// The steps of the protocol at which the daemon can be killed: see `src/failpoint.rs`.
const STEPS: [&str; 10] = [
    "page-to-be-committed",
    "page-committed",
    "completions-to-be-committed",
    "completions-committed",
    "fetched",
    "to-be-sent",
    "sent",
    "results-to-be-committed",
    "recorded",
    "heartbeat-written",
];

/// By how many seconds an instance's clock is wrong.
const SKEWS_S: [i64; 7] = [0, 3, -3, 45, -45, 900, -900];

/// How long an endpoint takes for a response, in milliseconds. One that takes longest always has as many requests open as it may: where
/// another instance takes it over too early, there are more.
const PACES_MS: [u64; 6] = [0, 0, 20, 100, 300, 2500];

/// A fault, and the pause before it.
pub type Step = (Duration, Fault);

/// Three series of faults, each one after the other, all at the same time.
#[derive(Debug)]
pub struct Plan {
    /// What happens to the instances.
    pub instances: Vec<Step>,
    /// What happens around them.
    pub surroundings: Vec<Step>,
    /// What MongoDB refuses or loses.
    pub losses: Vec<Step>,
    /// By how many seconds each instance's clock is wrong.
    pub skews_s: Vec<i64>,
    /// How long each endpoint takes for a response.
    pub paces: [Duration; PATHS.len()],
}

impl Plan {
    pub fn new(seed: u64, instances: usize) -> Self {
        let mut random = Rng::with_seed(seed);
        let skew = |random: &mut Rng, n| if n == 0 { 0 } else { pick(random, &SKEWS_S) };
        Self {
            instances: series(&mut random, |random| instance_fault(random, instances)),
            surroundings: series(&mut random, |random| surrounding_fault(random, instances)),
            losses: series(&mut random, loss),
            skews_s: (0..instances).map(|n| skew(&mut random, n)).collect(),
            paces: PATHS.map(|_| Duration::from_millis(pick(&mut random, &PACES_MS))),
        }
    }

    /// Nothing goes wrong, and the endpoints respond at once.
    pub fn calm(instances: usize) -> Self {
        Self {
            instances: Vec::new(),
            surroundings: Vec::new(),
            losses: Vec::new(),
            skews_s: vec![0; instances],
            paces: [Duration::ZERO; PATHS.len()],
        }
    }

    /// Until all is repaired.
    pub fn length(&self) -> Duration {
        let all = [&self.instances, &self.surroundings, &self.losses];
        let lengths = all.map(|steps| steps.iter().map(|(pause, fault)| *pause + fault.lasts).sum());
        lengths.into_iter().fold(LENGTH, Duration::max)
    }

    /// What MongoDB refuses for a while.
    pub fn rules(&self) -> Vec<Rule> {
        let rule = |(_, fault): &Step| match fault.kind {
            Kind::Refused(rule) => Some(rule),
            _ => None,
        };
        self.losses.iter().filter_map(rule).collect()
    }

    /// Whether the change stream's position is deleted.
    pub fn loses_position(&self) -> bool {
        let is_lost = |(_, fault): &Step| matches!(fault.kind, Kind::LosePosition);
        self.losses.iter().any(is_lost)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for steps in [&self.instances, &self.surroundings, &self.losses] {
            let names: Vec<_> = steps.iter().map(|(_, fault)| fault.to_string()).collect();
            writeln!(f, "  {}", names.join(", "))?;
        }
        let paces = self.paces.map(|pace| pace.as_millis());
        writeln!(f, "  clock skews {:?} s, responses after {paces:?} ms", self.skews_s)
    }
}

fn series(random: &mut Rng, mut fault: impl FnMut(&mut Rng) -> Fault) -> Vec<Step> {
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

fn instance_fault(random: &mut Rng, instances: usize) -> Fault {
    let one = random.usize(0..instances);
    let (kind, lasts) = match random.u8(0..10) {
        0 | 1 => (Kind::Kill(victims(random, instances)), seconds(random, 0.0, 3.0)),
        2..=5 => (Kind::KillAt(one, pick(random, &STEPS)), seconds(random, 1.0, 4.0)),
        6 => (Kind::Terminate(victims(random, instances)), seconds(random, 0.0, 3.0)),
        7 => (Kind::CrashLoop(one), seconds(random, 12.0, 20.0)),
        // Longer than `cluster::ALIVE`: it counts as dead meanwhile. Or nearly.
        8 => (Kind::Freeze(one), seconds(random, 5.0, 20.0)),
        _ => (Kind::Freeze(one), seconds(random, 0.5, 5.0)),
    };
    Fault { kind, lasts }
}

fn surrounding_fault(random: &mut Rng, instances: usize) -> Fault {
    let (kind, lasts) = match random.u8(0..10) {
        0 => (Kind::KillMongod, seconds(random, 0.0, 3.0)),
        1 => (Kind::StepDown, Duration::from_secs(random.u64(1..4))),
        2 => (Kind::Cut(victims(random, instances)), seconds(random, 0.0, 5.0)),
        3 => (Kind::Cut(victims(random, instances)), seconds(random, 9.0, 15.0)),
        4 => (Kind::BlackHole(victims(random, instances)), seconds(random, 1.0, 5.0)),
        5 => (Kind::BlackHole(victims(random, instances)), seconds(random, 9.0, 15.0)),
        6 => (Kind::DropUser, seconds(random, 0.0, 5.0)),
        7 => (Kind::DropUser, seconds(random, 0.0, 15.0)),
        8 => (Kind::Refuse(pick(random, &PATHS)), seconds(random, 0.5, 5.0)),
        _ => (Kind::Hang(pick(random, &PATHS)), seconds(random, 0.5, 5.0)),
    };
    Fault { kind, lasts }
}

fn loss(random: &mut Rng) -> Fault {
    let (kind, lasts) = match random.u8(0..8) {
        0 => (Kind::DropIndexes, seconds(random, 0.5, 6.0)),
        // It is missed only if another instance begins to watch meanwhile.
        1 => (Kind::LosePosition, seconds(random, 5.0, 15.0)),
        _ => (Kind::Refused(pick(random, &Rule::ALL)), seconds(random, 0.5, 6.0)),
    };
    Fault { kind, lasts }
}

/// Mostly one.
fn victims(random: &mut Rng, instances: usize) -> Victims {
    match random.u8(0..5) {
        0 => Victims::All,
        _ => Victims::One(random.usize(0..instances)),
    }
}

fn seconds(random: &mut Rng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(from + (to - from) * random.f64())
}

fn pick<T: Copy>(random: &mut Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}
