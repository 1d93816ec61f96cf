//! A portion's transaction, as MongoDB does it: what it reads, and how its writes happen together, once, or not at all.

use super::Broken;
use super::database::{Claim, Database, Event, Events, each, has};

/// How much of a portion is written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Whole,
    /// Only where it is not atomic.
    Outbox,
    Mark,
}

impl Database {
    /// What `scan::read::expired_filter` finds.
    pub fn expired(&self) -> Events {
        let due = self.certificates.iter().filter(|one| one.expired && !one.marked);
        due.fold(0, |events, one| events | 1 << one.expires)
    }

    /// A transaction is committed once, however often that is asked for.
    pub fn heard(&mut self, transaction: Claim) -> bool {
        let before = self.unheard.len();
        self.unheard.retain(|claim| *claim != transaction);
        self.unheard.len() < before
    }

    pub fn commit(&mut self, events: Events, queued: Events, claim: Claim, part: Part, broken: Option<Broken>) -> bool {
        let blind = broken == Some(Broken::MarkedUnseen);
        if part == Part::Whole && !blind && each(events).any(|event| !self.is_unchanged(event)) {
            return false;
        }
        for event in each(events) {
            if part != Part::Mark {
                self.insert(event, has(queued, event).then_some(claim));
            }
            // `portion::mark_if_unchanged`, where it is a write of its own.
            if part != Part::Outbox && (blind || self.is_unchanged(event)) {
                self.mark(self.certificate_of(event));
            }
        }
        true
    }

    /// Whether its certificate is as a scan has read it.
    fn is_unchanged(&self, expiry: Event) -> bool {
        let certificate = &self.certificates[self.certificate_of(expiry)];
        certificate.expires == expiry && !certificate.marked
    }

    fn mark(&mut self, certificate: usize) {
        let certificate = &mut self.certificates[certificate];
        certificate.marked = true;
        self.history.marked |= 1 << certificate.expires;
    }
}
