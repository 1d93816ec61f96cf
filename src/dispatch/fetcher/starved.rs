//! Endpoints that asked for slots and got none. Organizations take turns; within one it is first come, first served.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::model::EndpointKey;

#[derive(Default)]
pub(super) struct Starved {
    /// Not known to answer: they wait for one of the few slots that such endpoints get.
    unproven: Line,
    /// Known to answer: they wait for any slot.
    answering: Line,
}

#[derive(Default)]
struct Line {
    turn: VecDeque<String>,
    organizations: HashMap<String, VecDeque<EndpointKey>>,
    members: HashSet<EndpointKey>,
}

impl Starved {
    pub(super) fn add(&mut self, endpoint: EndpointKey, answers: bool) {
        let line = if answers {
            &mut self.answering
        } else {
            &mut self.unproven
        };
        line.add(endpoint);
    }

    /// Removes and returns those that may ask again, where there are slots for that many of either kind.
    pub(super) fn drain(&mut self, (unproven, answering): (usize, usize)) -> Vec<EndpointKey> {
        let mut drained = self.unproven.drain(unproven);
        drained.extend(self.answering.drain(answering));
        drained
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unproven.turn.is_empty() && self.answering.turn.is_empty()
    }

    /// How many wait that are known to answer.
    pub(super) fn answering(&self) -> usize {
        self.answering.members.len()
    }

    /// Whether an endpoint waits that is known to answer.
    pub(super) fn is_pressing(&self) -> bool {
        !self.answering.turn.is_empty()
    }
}

impl Line {
    fn add(&mut self, endpoint: EndpointKey) {
        if !self.members.insert(endpoint.clone()) {
            return;
        }
        let name = endpoint.organization();
        let endpoints = self.organizations.entry(name.to_owned()).or_default();
        if endpoints.is_empty() {
            self.turn.push_back(name.to_owned());
        }
        endpoints.push_back(endpoint);
    }

    fn drain(&mut self, count: usize) -> Vec<EndpointKey> {
        let mut drained = Vec::new();
        while drained.len() < count
            && let Some(name) = self.turn.pop_front()
        {
            let Some(endpoints) = self.organizations.get_mut(&name) else {
                continue;
            };
            drained.extend(endpoints.pop_front());
            if endpoints.is_empty() {
                self.organizations.remove(&name);
            } else {
                self.turn.push_back(name);
            }
        }
        for endpoint in &drained {
            self.members.remove(endpoint);
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organizations_take_turns_and_an_endpoint_stands_in_line_once() {
        let mut starved = Starved::default();
        for key in ["a/1", "a/2", "a/3", "b/1", "a/1", "c/1", "b/2"] {
            starved.add(EndpointKey::from_stored(key), false);
        }
        let mut drain = |count| -> Vec<String> {
            let drained = starved.drain((count, 0));
            drained.iter().map(ToString::to_string).collect()
        };
        assert_eq!(drain(4), ["a/1", "b/1", "c/1", "a/2"]);
        assert_eq!(drain(10), ["b/2", "a/3"]);
        assert!(starved.is_empty());
    }
}
