//! Deliveries of the class `background` in memory give way where something that goes before them lacks space: slots or bytes, of all or of its
//! organization. Where live deliveries keep coming they would not be sent, and would keep their slots and bytes for ever.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::MAX_BYTES;
use super::endpoint::EndpointQueue;
use super::state::State;
use crate::dispatch::admission::half;
use crate::model::EndpointKey;
use crate::outbox::Class;

impl State {
    /// For endpoints that ask for what goes before the class `background`; others have asked in vain if `is_starved`. Those of an
    /// endpoint of which one was sent less than `after` ago are left: they move.
    pub(super) fn drop_overtaken(&mut self, asking: &[&EndpointKey], is_starved: bool, now: Instant, after: Duration) {
        let is_full = (is_starved || !asking.is_empty()) && self.is_full(asking);
        let is_organization_full = |endpoint: &&&EndpointKey| self.is_organization_full(endpoint);
        let organizations = asking.iter().filter(is_organization_full);
        let full: HashSet<&str> = organizations.map(|endpoint| endpoint.organization()).collect();
        if !is_full && full.is_empty() {
            return;
        }
        let gives_way = |(endpoint, queue): &(&EndpointKey, &EndpointQueue)| {
            let since = queue.unsent.overtaken_since();
            let is_overtaken = since.is_some_and(|since| now.duration_since(since) >= after);
            is_overtaken && (is_full || full.contains(endpoint.organization()))
        };
        let overtaken: Vec<_> = self
            .endpoints
            .iter()
            .filter(gives_way)
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        overtaken.iter().for_each(|endpoint| self.drop_background(endpoint));
    }

    fn drop_background(&mut self, endpoint: &EndpointKey) {
        let Some(queue) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        queue.partial.take_if(|partial| partial.class == Class::Background);
        let background = queue.unsent.split_off_background();
        self.drop_deliveries(endpoint, &background);
    }

    /// Whether slots or bytes are all taken, as far as these endpoints need them.
    fn is_full(&self, asking: &[&EndpointKey]) -> bool {
        let wants_large = |endpoint: &&EndpointKey| self.too_large.contains_key(*endpoint);
        self.taken >= self.limits.capacity
            || self.bytes.small >= MAX_BYTES
            || (self.bytes.large >= MAX_BYTES && asking.iter().any(wants_large))
    }

    /// Whether the endpoint's organization has all the slots or bytes that it gets.
    fn is_organization_full(&self, endpoint: &EndpointKey) -> bool {
        let Some(organization) = self.organizations.get(endpoint.organization()) else {
            return false;
        };
        let large = self.too_large.get(endpoint);
        organization.taken >= half(self.limits.capacity)
            || organization.bytes.small >= half(MAX_BYTES)
            || large.is_some_and(|payload| !self.has_space_for_large(endpoint, *payload))
    }
}

#[cfg(test)]
mod tests;
