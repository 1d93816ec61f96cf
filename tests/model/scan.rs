//! The scan's part of a daemon: what it has read, and the transaction that writes and marks it.

use std::ops::RangeInclusive;

use super::Broken;
use super::database::{Claim, Events, Write, each};
use super::transaction::Part;

/// `scan::portion::Scan::take`: what had expired when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Portion {
    events: Events,
    /// Drawn anew for each transaction, so it names the transaction too.
    pub claim: Claim,
    /// How many of its deliveries have a place in the queue, once they are written.
    places: Option<usize>,
    /// Only where it is not atomic: the first of its two writes is done.
    half: bool,
}

impl Portion {
    pub fn new(events: Events, claim: Claim) -> Self {
        Self {
            events,
            claim,
            places: None,
            half: false,
        }
    }

    /// How many places in the queue, of so many that are free, it may have.
    pub fn places(self, room: usize, broken: Option<Broken>) -> RangeInclusive<usize> {
        match self.places {
            Some(places) => places..=places,
            // `Outbox::append_within`: what may be written twice is not claimed.
            None if broken == Some(Broken::SingleWrites) => 0..=0,
            None => 0..=room.min(self.events.count_ones() as usize),
        }
    }

    pub fn write(self, places: usize, broken: Option<Broken>) -> Write {
        Write::Commit {
            events: self.events,
            queued: first(places, self.events),
            claim: self.claim,
            part: self.part(broken),
        }
    }

    /// What is left to do, and what is now in the queue: `Outbox::release`. What was not done is read anew.
    pub fn answered(self, places: usize, done: bool, broken: Option<Broken>) -> (Option<Self>, Events) {
        if done && !self.half && self.part(broken) != Part::Whole {
            let half = Self {
                places: Some(places),
                half: true,
                ..self
            };
            return (Some(half), 0);
        }
        (None, if done { first(places, self.events) } else { 0 })
    }

    /// `Unit::commit`: it is asked again. That MongoDB has given the transaction up is as if it had not been asked to commit.
    pub fn unanswered(self, places: usize, broken: Option<Broken>) -> Option<Self> {
        let asked = Self {
            places: Some(places),
            ..self
        };
        let asks = self.part(broken) == Part::Whole && broken != Some(Broken::CommitNotAsked);
        asks.then_some(asked)
    }

    fn part(self, broken: Option<Broken>) -> Part {
        match (broken, self.half) {
            (Some(Broken::NotAtomic), false) | (Some(Broken::SingleWrites), true) => Part::Mark,
            (Some(Broken::NotAtomic), true) | (Some(Broken::SingleWrites), false) => Part::Outbox,
            _ => Part::Whole,
        }
    }
}

/// The first so many.
pub fn first(most: usize, events: Events) -> Events {
    each(events).take(most).fold(0, |first, event| first | 1 << event)
}
