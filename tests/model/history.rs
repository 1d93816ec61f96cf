//! What nobody in the system sees: the properties are about it.

use super::database::{Event, Events, has};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// Expiries that were current when their certificate was marked.
    pub marked: Events,
    /// Deliveries that were begun, and no result is recorded since. Not known once one may be sent twice.
    unrecorded: Option<u8>,
    /// Deliveries that an instance had in flight or unrecorded when it became dead for the others: its result may come at any time.
    late: u8,
    faults: u16,
}

/// What a step must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    AppendedAgain,
    PositionBack,
    RecordedAgain,
    BegunAgain,
    BegunSettled,
    BegunUncommitted,
    BegunUnmarked,
    BegunHeld,
}

impl History {
    pub fn new() -> Self {
        Self {
            marked: 0,
            unrecorded: Some(0),
            late: 0,
            faults: 0,
        }
    }

    pub fn add(&mut self, fault: Fault) {
        self.faults |= 1 << fault as u16;
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults & (1 << fault as u16) != 0
    }

    /// Whether it was begun before, and that result is not recorded.
    pub fn begun(&mut self, document: usize, delivery: usize) -> bool {
        let bit = Self::bit(document, delivery);
        let before = self.unrecorded;
        self.unrecorded = before.map(|bits| bits | bit);
        before.is_some_and(|bits| bits & bit != 0)
    }

    /// Whether its result was recorded before.
    pub fn recorded(&mut self, document: usize, delivery: usize) -> bool {
        let bit = Self::bit(document, delivery);
        let before = self.unrecorded;
        self.unrecorded = before.map(|bits| bits & !bit);
        before.is_some_and(|bits| bits & bit == 0)
    }

    /// From here on a delivery may be sent twice.
    pub fn silence(&mut self) {
        self.unrecorded = None;
    }

    /// The result of that delivery may come while another instance sends it again.
    pub fn may_come_late(&mut self, document: usize, delivery: usize) {
        self.late |= Self::bit(document, delivery);
    }

    pub fn is_late(&self, document: usize, delivery: usize) -> bool {
        self.late & Self::bit(document, delivery) != 0
    }

    pub fn is_marked(&self, expiry: Event) -> bool {
        has(self.marked, expiry)
    }

    fn bit(document: usize, delivery: usize) -> u8 {
        1 << (document * 2 + delivery)
    }
}
