//! The scan's part of a daemon: a certificate's way from the outbox write to the mark, and what a dead daemon left on it.

use super::Broken;
use super::database::{Claim, Database, Event, Write};

/// `scan::portion::Portion`, of one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Portion {
    pub certificate: usize,
    pub event: Event,
    pub claim: Claim,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Stage {
    Read,
    /// `fresh`: the delivery is this portion's; `room`: it has a place in the queue.
    Staged {
        fresh: bool,
        room: bool,
    },
    /// What is left to be written by `Outbox::confirm`.
    Renewed,
    Overflow,
    /// Only in the wrong order.
    MarkedFirst,
}

impl Portion {
    pub fn new(certificate: usize, event: Event, claim: Claim) -> Self {
        Self {
            certificate,
            event,
            claim,
            stage: Stage::Read,
        }
    }

    /// Whether its next step writes the delivery.
    pub fn is_staged_next(&self) -> bool {
        matches!(self.stage, Stage::Read | Stage::MarkedFirst)
    }

    pub fn write(self, room: bool, broken: Option<Broken>) -> Write {
        let Self {
            certificate,
            event,
            claim,
            stage,
        } = self;
        let mark = Write::Mark {
            certificate,
            expires: event,
        };
        match stage {
            Stage::Read if broken == Some(Broken::MarkBeforeOutbox) => mark,
            Stage::Read => Write::Insert {
                event,
                claim: Some(claim),
                unmarked: true,
            },
            Stage::MarkedFirst => Write::Insert {
                event,
                claim: room.then_some(claim),
                unmarked: false,
            },
            Stage::Staged { .. } => mark,
            Stage::Renewed => Write::Withdraw { event, claim },
            Stage::Overflow => Write::Free { event, claim },
        }
    }

    /// What is left to do, if anything is, and whether the delivery is now in the queue.
    pub fn answered(self, room: bool, done: bool, broken: Option<Broken>) -> (Option<Self>, bool) {
        let at = |stage| Some(Self { stage, ..self });
        match self.stage {
            Stage::Read if broken == Some(Broken::MarkBeforeOutbox) => (at(Stage::MarkedFirst).filter(|_| done), false),
            Stage::Read => (
                at(Stage::Staged {
                    fresh: done,
                    room: room && done,
                }),
                false,
            ),
            Stage::MarkedFirst => (None, room && done),
            // Somebody else's delivery: theirs to send or to take back.
            Stage::Staged { fresh: false, .. } => (None, false),
            Stage::Staged { .. } if !done => (at(Stage::Renewed), false),
            Stage::Staged { room: true, .. } => (None, true),
            Stage::Staged { room: false, .. } => (at(Stage::Overflow), false),
            Stage::Renewed | Stage::Overflow => (None, false),
        }
    }
}

/// What `scan::settle` found, and then whether it may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Orphan {
    event: Event,
    pub claim: Claim,
    certificate: usize,
    valid: Option<bool>,
}

impl Orphan {
    pub fn new(event: Event, claim: Claim, database: &Database) -> Self {
        Self {
            event,
            claim,
            certificate: database.certificate_of(event),
            valid: None,
        }
    }

    pub fn write(self, broken: Option<Broken>) -> Write {
        let Self {
            event,
            claim,
            certificate,
            valid,
        } = self;
        match valid {
            None if broken == Some(Broken::SettledUnseen) => Write::Settle {
                event,
                claim,
                valid: true,
            },
            None => Write::Mark {
                certificate,
                expires: event,
            },
            Some(valid) => Write::Settle { event, claim, valid },
        }
    }

    /// What is left to do, if anything is.
    pub fn answered(self, done: bool) -> Option<Self> {
        match self.valid {
            None => Some(Self {
                valid: Some(done),
                ..self
            }),
            Some(_) => None,
        }
    }
}
