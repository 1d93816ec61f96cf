//! What goes wrong.

use std::fmt;
use std::time::Duration;

/// Which daemons it hits: one, or both at once.
pub type Victims = &'static [usize];

/// One accident, and how long it lasts; then what was broken is mended.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub lasts: Duration,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// SIGKILL, and a new start.
    Kill(Victims),
    /// SIGKILL as soon as it comes to that step of the protocol, most of the times; then a new start.
    KillAt(usize, &'static str),
    /// SIGTERM, and a new start.
    Terminate(Victims),
    /// SIGSTOP, and SIGCONT: the daemon goes on with what it held, which others have long taken over.
    Freeze(usize),
    /// SIGKILL to mongod, and a new start over its files.
    KillMongod,
    /// The primary steps down and is elected again.
    StepDown,
    /// Every connection between these daemons and MongoDB is closed, new ones too.
    Cut(Victims),
    /// The connections stand, and nothing gets through; afterwards what was held back arrives late.
    BlackHole(Victims),
    /// An endpoint answers 503.
    Refuse(&'static str),
    /// An endpoint does not answer.
    Hang(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Kill(victims) => write!(f, "kill daemon {victims:?}"),
            Kind::KillAt(victim, step) => write!(f, "kill daemon [{victim}] at {step}"),
            Kind::Terminate(victims) => write!(f, "terminate daemon {victims:?}"),
            Kind::Freeze(victim) => write!(f, "freeze daemon [{victim}]"),
            Kind::KillMongod => write!(f, "kill mongod"),
            Kind::StepDown => write!(f, "step down"),
            Kind::Cut(victims) => write!(f, "cut {victims:?} off"),
            Kind::BlackHole(victims) => write!(f, "black hole around {victims:?}"),
            Kind::Refuse(path) => write!(f, "503 from {path}"),
            Kind::Hang(path) => write!(f, "silence from {path}"),
        }?;
        write!(f, " {:.1} s", self.lasts.as_secs_f64())
    }
}
