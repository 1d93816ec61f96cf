//! What the workers send with: the endpoint as it is configured at the time of the attempt, and the client.

use std::time::Duration;

use bson::DateTime;
use http::HeaderValue;

use crate::cluster::Cluster;
use crate::delivery::Client;
use crate::dispatch::Deliver;
use crate::mail::Mailer;
use crate::model::{Clock, Failure, Live, Outcome};
use crate::outbox::Claimed;
use crate::platform::{Directory, Found};
use crate::store::Store;
use crate::trace::{Attempt, Tracer};

/// Sends deliveries.
#[derive(Clone)]
pub struct Courier {
    /// Who the endpoints are now.
    pub directory: Directory,
    /// What sends.
    pub client: Live<Client>,
    /// What sends e-mails, if anything does.
    pub mailer: Live<Option<Mailer>>,
    /// Where users' addresses are.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Whose lanes are whose now.
    pub cluster: Cluster,
    /// What makes spans of attempts.
    pub tracer: Tracer,
}

impl Deliver for Courier {
    async fn attempt(&self, delivery: &Claimed) -> Outcome {
        if !self.cluster.owns(&delivery.endpoint) {
            // The lane has moved to another daemon since this was claimed.
            return Outcome::Interrupted;
        }
        let (message, now) = (&delivery.message, self.clock.now());
        let span = self.tracer.attempt(message, &delivery.endpoint, delivery.attempts, now);
        let trace = span.as_ref().and_then(Attempt::traceparent);
        let outcome = self.send(delivery, now, trace).await;
        if let Some(span) = span {
            span.end(&outcome);
        }
        outcome
    }
}

impl Courier {
    async fn send(&self, delivery: &Claimed, now: DateTime, trace: Option<HeaderValue>) -> Outcome {
        match self.directory.find(&delivery.endpoint) {
            Found::Endpoint(endpoint) if endpoint.enabled => {
                let client = self.client.get();
                client.attempt_traced(&endpoint, &delivery.message, now, trace).await
            }
            Found::Endpoint(_) => Outcome::Cancelled {
                reason: "the endpoint was disabled".into(),
            },
            Found::Email { .. } => self.remind(delivery, now).await,
            Found::Unknown => Outcome::Cancelled {
                reason: "the endpoint was deleted".into(),
            },
            // Not cancelled: it may be mended within the retry window.
            Found::Refused(reason) => Outcome::Failed(Failure {
                status: None,
                reason: format!("endpoint out of service: {reason}"),
                retry_after: None,
                elapsed: Duration::ZERO,
            }),
        }
    }

    async fn remind(&self, delivery: &Claimed, now: DateTime) -> Outcome {
        match &*self.mailer.get() {
            Some(mailer) => mailer.attempt(&self.store, &delivery.message, now).await,
            None => Outcome::Cancelled {
                reason: "e-mails are switched off".into(),
            },
        }
    }
}
