//! What the workers send with: the endpoint as it is configured at the time of the attempt, and the client.

use std::time::Duration;

use bson::DateTime;
use http::HeaderValue;
use scopeguard::ScopeGuard;
use tokio::task::JoinHandle;
use tracing::debug;

use super::endpoint_states::EndpointStates;
use super::gate::waits_for_proxy;
use crate::cluster::Cluster;
use crate::dispatch::Deliver;
use crate::failpoint;
use crate::mail::Mailer;
use crate::model::{Clock, EndpointKey, Failure, Outcome, Reloadable, time_until};
use crate::notices::{Begin, Episodes, unprobed};
use crate::operations::Holds;
use crate::outbox::{Delivery, Outbox, UNFINISHED, retry_deadline};
use crate::platform::{Directory, Found};
use crate::sender::{Client, Proxy, RetryPolicy};
use crate::store::{Error, Kind, Store};
use crate::trace::{Attempt, Tracer};

#[derive(Clone)]
pub struct Courier {
    pub directory: Directory,
    pub client: Reloadable<Client>,
    pub proxy: Proxy,
    /// What sends e-mails, if anything does.
    pub mailer: Reloadable<Option<Mailer>>,
    pub store: Store,
    pub outbox: Outbox,
    pub clock: Clock,
    pub tracer: Tracer,
    /// Attempts and retry period.
    pub policy: Reloadable<RetryPolicy>,
    pub states: EndpointStates,
    pub holds: Holds,
    pub episodes: Episodes,
    pub cluster: Cluster,
}

impl Deliver for Courier {
    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        if let Some(reason) = self.waits_for_proxy(delivery) {
            return Outcome::ProxyUnavailable { reason };
        }
        let began = self.clock.now();
        let begin = self.episodes.begin(&delivery.endpoint, began);
        if begin == Begin::No {
            return Outcome::NotSent;
        }
        let is_probe = begin == Begin::Probe;
        // It may be cut short: this future is dropped then.
        let cut_short = scopeguard::guard((), |()| {
            if is_probe {
                self.take_back_probe(&delivery.endpoint, began);
            }
        });
        // As it is sent to: a document that changes meanwhile is another.
        let fingerprint = self.directory.fingerprint(&delivery.endpoint);
        let mut outcome = match self.begin_large(delivery).await {
            Some(outcome) => outcome,
            None => self.send_traced(delivery).await,
        };
        ScopeGuard::into_inner(cut_short);
        if is_probe && is_unsent(&outcome) {
            self.take_back_probe(&delivery.endpoint, began);
        }
        let mut is_of_now = true;
        if let Some(failure) = outcome.failure_mut() {
            failure.is_probe = is_probe;
            is_of_now = self.directory.fingerprint(&delivery.endpoint) == fingerprint;
        }
        // How other settings failed says nothing of these.
        if is_of_now {
            let (fingerprint, now) = (fingerprint.unwrap_or(0), self.clock.now());
            self.episodes.ended(delivery, &outcome, fingerprint, now);
        }
        outcome
    }
}

/// Whether nothing was attempted.
fn is_unsent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::NotSent | Outcome::ProxyUnavailable { .. })
}

impl Courier {
    async fn send_traced(&self, delivery: &Delivery) -> Outcome {
        let (message, now) = (&delivery.message, self.clock.now());
        let span = self.tracer.attempt(message, &delivery.endpoint, delivery.attempt, now);
        let trace = span.as_ref().and_then(Attempt::traceparent);
        let cut_short = scopeguard::guard((), |()| drop(self.take_back(delivery)));
        let mut outcome = self.send(delivery, now, trace).await;
        if let Outcome::TransientFailure(failure) = &mut outcome {
            failure.retry_after = failure.retry_after.map(|wait| self.bounded(wait, delivery, now));
        }
        ScopeGuard::into_inner(cut_short);
        if is_unsent(&outcome) {
            // It has said what it could.
            let _ = self.take_back(delivery).await;
        }
        if let Some(span) = span {
            span.end(&outcome);
        }
        outcome
    }

    /// Why nothing goes to the endpoint now: since the queue was asked, the proxy may have become unavailable.
    fn waits_for_proxy(&self, delivery: &Delivery) -> Option<String> {
        let waits = waits_for_proxy(&self.proxy, &self.directory, &delivery.endpoint);
        Some(self.proxy.outage().filter(|_| waits)?.reason)
    }

    /// Notes that an attempt with a large payload begins. Returns what comes instead of it, if it must not begin.
    async fn begin_large(&self, delivery: &Delivery) -> Option<Outcome> {
        if !delivery.is_large() {
            return None;
        }
        if delivery.begun >= UNFINISHED {
            return Some(Outcome::PermanentFailure(Failure {
                reason: format!(
                    "the daemon ended during each of the last {UNFINISHED} attempts, before there was a result"
                ),
                ..Failure::default()
            }));
        }
        // In a task of its own: the attempt may be cut short, and a future of the driver must not be dropped.
        let (outbox, noted) = (self.outbox.clone(), delivery.clone());
        let note = tokio::spawn(async move { outbox.add_to_begun(&noted, 1).await });
        match note.await {
            Ok(Ok(true)) => {
                failpoint::reach("large-begun");
                None
            }
            Ok(Err(error)) if matches!(error.kind(), Kind::Refused | Kind::Denied) => {
                debug!(delivery = %delivery.batch.id, %error, "MongoDB refuses the note that an attempt begins");
                None
            }
            // The delivery is fetched again.
            _ => Some(Outcome::NotSent),
        }
    }

    /// Takes back what was noted when the attempt began: nothing was attempted, or it was cut short. In a task of its own, as in
    /// `begin_large`.
    fn take_back(&self, delivery: &Delivery) -> JoinHandle<()> {
        let (outbox, noted) = (self.outbox.clone(), delivery.clone());
        tokio::spawn(async move {
            if !noted.is_large() {
                return;
            }
            if let Err(error) = outbox.add_to_begun(&noted, -1).await {
                debug!(delivery = %noted.batch.id, %error, "an attempt that was not made counts as begun");
            }
        })
    }

    /// The next attempt is the probe, whoever makes it. What writes episodes down has ended when a stop cuts a probe short: so this is
    /// written here, in a task of its own, as above.
    fn take_back_probe(&self, endpoint: &EndpointKey, began: DateTime) {
        self.episodes.take_back_probe(endpoint);
        let (store, endpoint) = (self.store.clone(), endpoint.clone());
        tokio::spawn(async move {
            let (is_noted, take_back) = unprobed(&endpoint, began);
            if let Err(error) = store.state().update_one(is_noted, take_back).await {
                debug!(%endpoint, error = %Error::from(error), "a probe that was not made counts as made");
            }
        });
    }

    /// A `Retry-After` is obeyed until the end of the delivery's retry period at most, or for one retry period if that has ended.
    fn bounded(&self, wait: Duration, delivery: &Delivery, began: DateTime) -> Duration {
        let policy = self.policy.get();
        let first = delivery.first_attempt_at.unwrap_or(began);
        let deadline = retry_deadline(first, self.states.served_since(&delivery.endpoint), &policy);
        let left = time_until(deadline, self.clock.now());
        wait.min(if left.is_zero() { policy.period } else { left })
    }

    async fn send(&self, delivery: &Delivery, now: DateTime, trace: Option<HeaderValue>) -> Outcome {
        // Since the queue was asked, this process may have been frozen.
        if self.holds.is_held(&delivery.endpoint, now) || !self.cluster.may_begin(&delivery.endpoint) {
            return Outcome::NotSent;
        }
        match self.directory.find(&delivery.endpoint) {
            Found::Served(endpoint) => {
                let client = self.client.get();
                client.attempt_traced(&endpoint, &delivery.message, now, trace).await
            }
            Found::Email { enabled: true } => self.remind(delivery, now).await,
            // Switched off, deleted or out of service since it was fetched: what waits is cancelled in bulk, or goes on waiting.
            Found::Email { enabled: false } | Found::Off { .. } | Found::OutOfService { .. } => Outcome::NotSent,
        }
    }

    async fn remind(&self, delivery: &Delivery, now: DateTime) -> Outcome {
        match &*self.mailer.get() {
            // Boxed: it is large, and as a part of each attempt it would be moved with each webhook.
            Some(mailer) => Box::pin(mailer.attempt(&self.store, &delivery.message, now)).await,
            None => Outcome::NotSent,
        }
    }
}
