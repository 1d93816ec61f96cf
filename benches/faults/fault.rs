//! What goes wrong.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::rule::Rule;

/// One accident, and how long it lasts; then what was broken is repaired.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub lasts: Duration,
}

/// Which instances it hits, counted from 0.
#[derive(Clone, Copy, Debug)]
pub enum Victims {
    One(usize),
    All,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// SIGKILL, and a new start.
    Kill(Victims),
    /// SIGKILL as soon as it comes to that step of the protocol, in one of three cases; then a new start.
    KillAt(usize, &'static str),
    /// SIGKILL and a new start, again and again.
    CrashLoop(usize),
    /// SIGTERM, and a new start.
    Terminate(Victims),
    /// SIGSTOP, and SIGCONT: it goes on with what it had in memory, which others have long taken over.
    Freeze(usize),
    /// SIGKILL to mongod, and a new start over its files.
    KillMongod,
    /// The primary steps down and is elected again.
    StepDown,
    /// Every connection between these instances and MongoDB is closed, new ones too.
    Cut(Victims),
    /// The connections stay open, and nothing gets through; afterwards what was held back arrives late.
    BlackHole(Victims),
    /// The database user is dropped, and created again.
    DropUser,
    /// An endpoint responds with 503.
    Refuse(&'static str),
    /// An endpoint does not respond.
    Hang(&'static str),
    /// MongoDB refuses something.
    Refused(Rule),
    /// The indexes are dropped.
    DropIndexes,
    /// The change stream's position is deleted.
    LosePosition,
}

impl Victims {
    /// Of that many instances.
    pub fn of(self, instances: usize) -> Range<usize> {
        match self {
            Self::One(victim) => victim..victim + 1,
            Self::All => 0..instances,
        }
    }
}

impl fmt::Display for Victims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(victim) => write!(f, "[{victim}]"),
            Self::All => f.write_str("all"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Kill(victims) => write!(f, "kill {victims}"),
            Kind::KillAt(victim, step) => write!(f, "kill [{victim}] at {step}"),
            Kind::CrashLoop(victim) => write!(f, "crash loop of [{victim}]"),
            Kind::Terminate(victims) => write!(f, "terminate {victims}"),
            Kind::Freeze(victim) => write!(f, "freeze [{victim}]"),
            Kind::KillMongod => write!(f, "kill mongod"),
            Kind::StepDown => write!(f, "step down"),
            Kind::Cut(victims) => write!(f, "cut {victims} off"),
            Kind::BlackHole(victims) => write!(f, "black hole around {victims}"),
            Kind::Refuse(path) => write!(f, "503 from {path}"),
            Kind::Hang(path) => write!(f, "silence from {path}"),
            Kind::DropUser => write!(f, "no user"),
            Kind::Refused(rule) => write!(f, "refused: {rule}"),
            Kind::DropIndexes => write!(f, "no indexes"),
            Kind::LosePosition => write!(f, "no position"),
        }?;
        write!(f, " {:.1} s", self.lasts.as_secs_f64())
    }
}
