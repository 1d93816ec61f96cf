//! What of one endpoint is in memory and not sent yet.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::outbox::{Class, Delivery};

/// Live deliveries and retries in the order in which they were read, and after them those of the class `background`, whenever they were read.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    first: VecDeque<Delivery>,
    background: VecDeque<Delivery>,
    /// When one of the class `background` was last sent, or came where none was.
    background_moved: Option<Instant>,
}

impl Unsent {
    pub(super) fn push(&mut self, delivery: Delivery, class: Class, now: Instant) {
        match class {
            Class::Live | Class::Retry => self.first.push_back(delivery),
            Class::Background => {
                if self.background.is_empty() {
                    self.background_moved = Some(now);
                }
                self.background.push_back(delivery);
            }
        }
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Delivery> {
        if let Some(delivery) = self.first.pop_front() {
            return Some(delivery);
        }
        self.background_moved = Some(now);
        self.background.pop_front()
    }

    /// Those of the class `background` leave it.
    pub(super) fn split_off_background(&mut self) -> Self {
        Self {
            background: std::mem::take(&mut self.background),
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.background.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are of the class `background`.
    pub(super) fn background(&self) -> usize {
        self.background.len()
    }

    /// Since when those of the class `background` wait and none of them was sent.
    pub(super) fn overtaken_since(&self) -> Option<Instant> {
        self.background_moved.filter(|_| !self.background.is_empty())
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
