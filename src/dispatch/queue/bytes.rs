//! Payload bytes in memory, and which endpoint may bring more. Small and large payloads are counted apart, so that neither keeps the other out.
//!
//! Small ones: endpoints that are not known to answer get a quarter together, those of one organization half of that, and one
//! organization half of all, so that a hanging endpoint leaves bytes to others, as it does with slots. An endpoint that has less than
//! its part may bring one more batch. Large ones: each organization may always bring its first, while there is space at all.
//!
//! Example: of 16 MB, endpoints that are not known to answer get 4 MB together and 2 MB per organization; an organization gets 8 MB.

use super::MAX_BYTES;
use super::state::State;
use crate::dispatch::admission::{half, quarter};
use crate::model::EndpointKey;
use crate::outbox::BATCH_BYTES;

/// Payload bytes of some deliveries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    pub(super) small: usize,
    pub(super) large: usize,
    /// Small payloads of endpoints that are not known to answer; `small` counts them too.
    pub(super) unproven: usize,
}

impl Bytes {
    pub(super) fn add(&mut self, payload: usize) {
        *self.part(payload) += payload;
    }

    pub(super) fn remove(&mut self, payload: usize) {
        *self.part(payload) -= payload;
    }

    fn part(&mut self, payload: usize) -> &mut usize {
        match payload > BATCH_BYTES {
            true => &mut self.large,
            false => &mut self.small,
        }
    }
}

impl State {
    /// Whether a payload of that size may come into memory. A large one that may not is remembered: it is not read again in vain.
    pub(super) fn has_space(&mut self, endpoint: &EndpointKey, payload: usize) -> bool {
        if payload <= BATCH_BYTES {
            return self.has_space_for_small(endpoint);
        }
        let has_space = self.has_space_for_large(endpoint, payload);
        if !has_space {
            self.too_large.insert(endpoint.clone(), payload);
        }
        has_space
    }

    /// Whether anything of that endpoint may be read.
    pub(super) fn may_read(&mut self, endpoint: &EndpointKey) -> bool {
        if let Some(payload) = self.too_large.get(endpoint).copied() {
            if !self.has_space_for_large(endpoint, payload) {
                return false;
            }
            self.too_large.remove(endpoint);
        }
        self.has_space_for_small(endpoint)
    }

    fn has_space_for_small(&self, endpoint: &EndpointKey) -> bool {
        let own = self.bytes_of(endpoint);
        let is_full = self.bytes.small >= MAX_BYTES || own.small >= half(MAX_BYTES);
        let unproven = quarter(MAX_BYTES);
        let may = self.breakers.answers(endpoint) || (self.bytes.unproven < unproven && own.unproven < half(unproven));
        may && !is_full
    }

    pub(super) fn has_space_for_large(&self, endpoint: &EndpointKey, payload: usize) -> bool {
        let own = self.bytes_of(endpoint).large;
        self.bytes.large < MAX_BYTES && (own == 0 || own + payload <= half(MAX_BYTES))
    }

    /// Those of its organization.
    fn bytes_of(&self, endpoint: &EndpointKey) -> Bytes {
        let organization = self.organizations.get(endpoint.organization());
        organization.map(|organization| organization.bytes).unwrap_or_default()
    }
}
