//! Whose delivery is sent next: organizations take turns, and within one its endpoints do.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::Instant;

use super::Gate;
use super::endpoint::{EndpointQueue, Organization};
use super::state::State;
use crate::dispatch::admission::half;
use crate::model::EndpointKey;
use crate::outbox::Delivery;

/// An endpoint that waits for its time is looked at again after this long: its configuration may have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl State {
    pub(super) fn next(&mut self, gate: &dyn Gate, now: Instant) -> Option<Delivery> {
        self.end_waits(now);
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
            let next = self.next_of(&name, gate, now);
            self.organization_joins_turn(&name);
            self.forget_idle_organization(&name);
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// The next delivery of an organization that has a request to spare.
    fn next_of(&mut self, name: &str, gate: &dyn Gate, now: Instant) -> Option<Delivery> {
        loop {
            let endpoint = self.organizations.get_mut(name)?.turn.pop_front()?;
            let configured = gate.configured(&endpoint);
            let Some(queue) = self.endpoints.get_mut(&endpoint) else {
                continue;
            };
            queue.in_turn = false;
            if queue.unsent.is_empty() {
                self.forget_idle(&endpoint);
                continue;
            }
            queue.configured = configured;
            let in_flight = queue.in_flight;
            // It comes back when one of its requests ends.
            if in_flight >= self.concurrency(&endpoint) {
                continue;
            }
            if !gate.may_begin(&endpoint) {
                self.drop_unsent(&endpoint);
                continue;
            }
            if self.postpone(&endpoint, now) {
                continue;
            }
            let Some(queue) = self.endpoints.get_mut(&endpoint) else {
                continue;
            };
            let Some(delivery) = queue.unsent.pop(now) else {
                continue;
            };
            queue.in_flight += 1;
            self.in_flight += 1;
            self.paces.began(&endpoint, configured, now);
            if let Some(organization) = self.organizations.get_mut(name) {
                organization.in_flight += 1;
            }
            self.join_turn(&endpoint);
            return Some(delivery);
        }
    }

    /// Requests in flight to that endpoint, at most.
    fn concurrency(&self, endpoint: &EndpointKey) -> usize {
        match self.breakers.answers(endpoint) {
            true => self.paces.parallel(endpoint, self.configured_concurrency(endpoint)),
            false => 1,
        }
    }

    /// Requests in flight to that endpoint, at most, if it is well.
    pub(super) fn configured_concurrency(&self, endpoint: &EndpointKey) -> usize {
        let configured = self
            .endpoints
            .get(endpoint)
            .and_then(|queue| queue.configured.concurrency);
        configured.map_or(self.limits.concurrency, |own| own.min(self.limits.concurrency))
    }

    /// Puts the endpoint off until its next request may begin, where that is not now. Returns whether it did.
    fn postpone(&mut self, endpoint: &EndpointKey, now: Instant) -> bool {
        let Some(queue) = self.endpoints.get_mut(endpoint) else {
            return false;
        };
        let Some(until) = self.paces.waits_until(endpoint, queue.configured, now) else {
            return false;
        };
        queue.in_turn = true;
        let until = until.min(now + LOOK_AGAIN);
        self.timed.push(Reverse((until, endpoint.clone())));
        true
    }

    fn end_waits(&mut self, now: Instant) {
        while self.wakes_at().is_some_and(|until| until <= now) {
            let Some(Reverse((_, endpoint))) = self.timed.pop() else {
                return;
            };
            if let Some(queue) = self.endpoints.get_mut(&endpoint) {
                queue.in_turn = false;
            }
            self.join_turn(&endpoint);
            self.forget_idle(&endpoint);
        }
    }

    /// When the first of those that wait for their time may send.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.timed.peek().map(|Reverse((until, _))| *until)
    }

    /// Whether another request could begin.
    pub(super) fn may_send_more(&self) -> bool {
        !self.turn.is_empty() && self.in_flight < self.limits.max_in_flight
    }

    /// The endpoint joins its organization's turn, if it has something to send and a request to spare.
    pub(super) fn join_turn(&mut self, endpoint: &EndpointKey) {
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
        self.organization_joins_turn(name);
    }

    /// The organization joins the turn, if one of its endpoints can send and it has a request to spare.
    pub(super) fn organization_joins_turn(&mut self, name: &str) {
        let Some(organization) = self.organizations.get_mut(name) else {
            return;
        };
        let may = organization.in_flight < half(self.limits.max_in_flight);
        if may && !organization.in_turn && !organization.turn.is_empty() {
            organization.in_turn = true;
            self.turn.push_back(name.to_owned());
        }
    }

    pub(super) fn forget_idle(&mut self, endpoint: &EndpointKey) {
        if self.endpoints.get(endpoint).is_some_and(EndpointQueue::is_idle) {
            self.endpoints.remove(endpoint);
        }
        self.forget_idle_organization(endpoint.organization());
    }

    pub(super) fn forget_idle_organization(&mut self, name: &str) {
        if self.organizations.get(name).is_some_and(Organization::is_idle) {
            self.organizations.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
