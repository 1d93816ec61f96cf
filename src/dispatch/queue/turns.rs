//! Whose delivery is sent next: organizations take turns, and within one its endpoints do.

use super::MayBegin;
use super::state::State;
use crate::dispatch::admission::half;
use crate::model::EndpointKey;
use crate::outbox::Delivery;

impl State {
    pub(super) fn next(&mut self, may_begin: &MayBegin) -> Option<Delivery> {
        if self.closed || self.in_flight >= self.limits.max_in_flight {
            return None;
        }
        for _ in 0..self.turn.len() {
            let name = self.turn.pop_front()?;
            let Some(organization) = self.organizations.get_mut(&name) else {
                continue;
            };
            organization.in_turn = false;
            // It comes back when one of its requests ends.
            if organization.in_flight >= half(self.limits.max_in_flight) {
                continue;
            }
            let next = self.next_of(&name, may_begin);
            self.organization_takes_turn(&name);
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// The next delivery of an organization that has a request to spare.
    fn next_of(&mut self, name: &str, may_begin: &MayBegin) -> Option<Delivery> {
        loop {
            let endpoint = self.organizations.get_mut(name)?.turn.pop_front()?;
            let limit = self.concurrency(&endpoint);
            let Some(queue) = self.endpoints.get_mut(&endpoint) else {
                continue;
            };
            queue.in_turn = false;
            // It comes back when one of its requests ends.
            if queue.in_flight >= limit {
                continue;
            }
            if !may_begin(&endpoint) {
                self.drop_unsent(&endpoint);
                continue;
            }
            let Some(delivery) = queue.unsent.pop_front() else {
                continue;
            };
            queue.in_flight += 1;
            self.in_flight += 1;
            if let Some(organization) = self.organizations.get_mut(name) {
                organization.in_flight += 1;
            }
            self.take_turn(&endpoint);
            return Some(delivery);
        }
    }

    /// Requests in flight to that endpoint, at most.
    fn concurrency(&self, endpoint: &EndpointKey) -> usize {
        match self.breakers.answers(endpoint) {
            true => self.limits.concurrency,
            false => 1,
        }
    }

    /// Whether another request could begin.
    pub(super) fn may_send_more(&self) -> bool {
        !self.turn.is_empty() && self.in_flight < self.limits.max_in_flight
    }

    /// The endpoint joins its organization's turn, if it has something to send and a request to spare.
    pub(super) fn take_turn(&mut self, endpoint: &EndpointKey) {
        let limit = self.concurrency(endpoint);
        let Some(queue) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        if queue.in_turn || queue.unsent.is_empty() || queue.in_flight >= limit {
            return;
        }
        queue.in_turn = true;
        let name = endpoint.organization();
        if let Some(organization) = self.organizations.get_mut(name) {
            organization.turn.push_back(endpoint.clone());
        }
        self.organization_takes_turn(name);
    }

    /// The organization joins the turn, if one of its endpoints can send and it has a request to spare.
    pub(super) fn organization_takes_turn(&mut self, name: &str) {
        let Some(organization) = self.organizations.get_mut(name) else {
            return;
        };
        let may = organization.in_flight < half(self.limits.max_in_flight);
        if may && !organization.in_turn && !organization.turn.is_empty() {
            organization.in_turn = true;
            self.turn.push_back(name.to_owned());
        }
    }
}
