//! What the queue learns of endpoints from their responses.

use std::time::Duration;

use tokio::time::Instant;

use super::state::State;
use super::{MAX_EXCLUDED, STUCK};
use crate::dispatch::pace::FailedResponse;
use crate::model::{Concerns, EndpointKey, Failure, Outcome};
use crate::outbox::Delivery;

impl State {
    /// When the endpoint may get something again, if it is only probed or paused, or has very many excluded batches.
    pub(super) fn resumes_at(&self, endpoint: &EndpointKey) -> Option<Instant> {
        let excluded = self.endpoints.get(endpoint).map(|queue| &queue.excluded);
        let rests = excluded.filter(|excluded| excluded.len() >= MAX_EXCLUDED);
        let rests_until = rests.and_then(|excluded| excluded.values().min().copied());
        self.breakers
            .next_probe(endpoint)
            .max(self.paces.paused_until(endpoint))
            .max(rests_until)
    }

    /// Returns for how long the endpoint is paused from now on.
    pub(super) fn note_health(&mut self, delivery: &Delivery, outcome: &Outcome, now: Instant) -> Option<Duration> {
        let endpoint = &delivery.endpoint;
        let configured = self.configured_concurrency(endpoint);
        match outcome {
            // It says nothing that is not known.
            Outcome::TransientFailure(failure) | Outcome::Gone(failure) if failure.is_probe => None,
            Outcome::Delivered { .. } | Outcome::Gone(_) => {
                self.paces.succeeded(endpoint, configured);
                self.answered(endpoint);
                None
            }
            Outcome::TransientFailure(failure) | Outcome::PermanentFailure(failure)
                if failure.concerns == Concerns::Delivery =>
            {
                self.answered(endpoint);
                None
            }
            Outcome::TransientFailure(failure) if failure.concerns == Concerns::Endpoint => {
                self.paces.begin_gently(endpoint);
                if self.breakers.failed_altogether(endpoint, &failure.reason, now) {
                    self.drop_unsent(endpoint);
                }
                None
            }
            Outcome::TransientFailure(failure) => self.failed(delivery, failure, configured, now),
            // Says nothing of the endpoint.
            Outcome::PermanentFailure(_)
            | Outcome::Cancelled { .. }
            | Outcome::NotSent
            | Outcome::ProxyUnavailable { .. } => None,
        }
    }

    fn failed(&mut self, delivery: &Delivery, failure: &Failure, configured: usize, now: Instant) -> Option<Duration> {
        let endpoint = &delivery.endpoint;
        let response = failure.status.map(|status| FailedResponse {
            status,
            retry_after: failure.retry_after,
            is_retry: delivery.attempt > 1,
        });
        let pause = response.and_then(|response| self.paces.failed(endpoint, configured, response, now));
        let stopped_answering = self.breakers.failed(endpoint, failure.timed_out, now);
        // What can't be sent for a while gives its slots to others.
        if stopped_answering || pause.is_some_and(|pause| pause > STUCK) {
            self.drop_unsent(endpoint);
        }
        pause
    }

    fn answered(&mut self, endpoint: &EndpointKey) {
        if self.breakers.succeeded(endpoint) {
            self.changes.refill.insert(endpoint.clone());
        }
    }

    /// Brings up to date whether the endpoint contends, and how many of its slots count as taken by one that is not known to
    /// answer.
    pub(super) fn recount(&mut self, endpoint: &EndpointKey) {
        let answers = self.breakers.answers(endpoint);
        let Some(queue) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        let unproven = if answers { 0 } else { queue.active() };
        let contends = answers && queue.active() > 0;
        let contended = std::mem::replace(&mut queue.contends, contends);
        self.contending = self.contending + usize::from(contends) - usize::from(contended);
        let before = std::mem::replace(&mut queue.counted_unproven, unproven);
        self.taken_by_unproven = self.taken_by_unproven + unproven - before;
        let unproven_bytes = if answers { 0 } else { queue.bytes.small };
        let bytes_before = std::mem::replace(&mut queue.bytes.unproven, unproven_bytes);
        self.bytes.unproven = self.bytes.unproven + unproven_bytes - bytes_before;
        if let Some(organization) = self.organizations.get_mut(endpoint.organization()) {
            organization.unproven = organization.unproven + unproven - before;
            organization.bytes.unproven = organization.bytes.unproven + unproven_bytes - bytes_before;
        }
    }
}
