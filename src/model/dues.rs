//! When something is due, of which endpoint.

use std::collections::{BTreeSet, HashMap};

use super::EndpointKey;

/// One instant per endpoint. What is due is found without looking at the others.
#[derive(Debug)]
pub struct Dues<T> {
    at: HashMap<EndpointKey, T>,
    in_order: BTreeSet<(T, EndpointKey)>,
}

impl<T: Ord> Default for Dues<T> {
    fn default() -> Self {
        Self {
            at: HashMap::new(),
            in_order: BTreeSet::new(),
        }
    }
}

impl<T: Ord + Copy> Dues<T> {
    /// It is due then; `None`: nothing is due of the endpoint any more.
    pub fn set(&mut self, endpoint: &EndpointKey, at: Option<T>) {
        let before = match at {
            Some(at) => self.at.insert(endpoint.clone(), at),
            None => self.at.remove(endpoint),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.in_order.remove(&(before, endpoint.clone()));
        }
        if let Some(at) = at {
            self.in_order.insert((at, endpoint.clone()));
        }
    }

    /// The same, unless something is due of it already.
    pub fn set_if_none(&mut self, endpoint: &EndpointKey, at: T) {
        if !self.at.contains_key(endpoint) {
            self.set(endpoint, Some(at));
        }
    }

    /// Whatever is due later than `latest` is due at `now`: a clock that was wrong has set it.
    pub fn bring_forward(&mut self, latest: T, now: T) {
        let later = self.in_order.iter().rev().take_while(|(at, _)| *at > latest);
        let later: Vec<_> = later.map(|(_, endpoint)| endpoint.clone()).collect();
        later.iter().for_each(|endpoint| self.set(endpoint, Some(now)));
    }

    /// When the first is due.
    pub fn next(&self) -> Option<T> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// What is due at `now`.
    pub fn due(&self, now: T) -> Vec<EndpointKey> {
        let due = self.in_order.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, endpoint)| endpoint.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use bson::DateTime;

    use super::*;

    #[test]
    fn what_is_due_is_found_by_its_last_instant() {
        let at = DateTime::from_millis;
        let [a, b, c] = ["o/a", "o/b", "o/c"].map(EndpointKey::from_stored);
        let mut dues = Dues::default();
        for (endpoint, millis) in [(&a, 30), (&b, 20), (&c, 10), (&a, 5)] {
            dues.set(endpoint, Some(at(millis)));
        }
        dues.set_if_none(&b, at(1));
        assert_eq!(dues.next(), Some(at(5)));
        assert_eq!(dues.due(at(10)), [a.clone(), c.clone()]);
        dues.set(&a, None);
        assert_eq!(dues.due(at(20)), [c.clone(), b.clone()]);
        assert_eq!(dues.due(at(9)), []);
        dues.bring_forward(at(20), at(1));
        assert_eq!(dues.due(at(9)), []);
        dues.bring_forward(at(19), at(1));
        assert_eq!(
            (dues.due(at(9)), dues.due(at(10))),
            (vec![b.clone()], vec![b.clone(), c.clone()])
        );
        assert_eq!(dues.at.len(), dues.in_order.len());
    }
}
