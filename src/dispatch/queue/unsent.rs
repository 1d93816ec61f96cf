//! What of one endpoint is in memory and not sent yet.

use std::collections::VecDeque;

use crate::outbox::{Class, Delivery};

/// Live deliveries and retries in the order in which they were read, and behind them those of the class `background`, whenever they were read.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    first: VecDeque<Delivery>,
    background: VecDeque<Delivery>,
}

impl Unsent {
    pub(super) fn push(&mut self, delivery: Delivery, class: Class) {
        match class {
            Class::Live | Class::Retry => self.first.push_back(delivery),
            Class::Background => self.background.push_back(delivery),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Delivery> {
        self.first.pop_front().or_else(|| self.background.pop_front())
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.background.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that a live delivery does not overtake.
    pub(super) fn not_overtaken(&self) -> usize {
        self.first.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.first.iter().chain(&self.background)
    }

    /// The next of either part: of its batch others may be in flight.
    pub(super) fn fronts(&self) -> impl Iterator<Item = (&Delivery, Class)> {
        let first = self.first.front().map(|delivery| (delivery, Class::Live));
        let background = self.background.front().map(|delivery| (delivery, Class::Background));
        first.into_iter().chain(background)
    }
}
