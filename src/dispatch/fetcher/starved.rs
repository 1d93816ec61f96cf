//! Endpoints that wanted slots in vain, first come, first served.

use std::collections::{HashSet, VecDeque};

use crate::model::EndpointKey;

#[derive(Default)]
pub(super) struct Starved {
    /// Not known to answer: they wait for one of the few slots that such endpoints get.
    unknown: Line,
    /// Known to answer: they wait for any slot.
    answering: Line,
}

#[derive(Default)]
struct Line {
    order: VecDeque<EndpointKey>,
    members: HashSet<EndpointKey>,
}

impl Starved {
    pub(super) fn add(&mut self, endpoint: EndpointKey, answers: bool) {
        let line = if answers {
            &mut self.answering
        } else {
            &mut self.unknown
        };
        if line.members.insert(endpoint.clone()) {
            line.order.push_back(endpoint);
        }
    }

    /// Those that may ask again, where there are slots for that many of either kind.
    pub(super) fn take(&mut self, (unknown, answering): (usize, usize)) -> Vec<EndpointKey> {
        let mut taken = self.unknown.take(unknown);
        taken.extend(self.answering.take(answering));
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unknown.order.is_empty() && self.answering.order.is_empty()
    }

    /// Whether somebody waits who would use slots well.
    pub(super) fn is_pressing(&self) -> bool {
        !self.answering.order.is_empty()
    }
}

impl Line {
    fn take(&mut self, count: usize) -> Vec<EndpointKey> {
        let taken: Vec<_> = self.order.drain(..count.min(self.order.len())).collect();
        taken.iter().for_each(|endpoint| {
            self.members.remove(endpoint);
        });
        taken
    }
}
