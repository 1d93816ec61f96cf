//! What the workers send with: the endpoint as it is configured at the time of the attempt, and the client.

use bson::DateTime;
use http::HeaderValue;

use crate::dispatch::Deliver;
use crate::mail::Mailer;
use crate::model::{Clock, Live, Outcome};
use crate::outbox::Delivery;
use crate::platform::{Directory, Found};
use crate::sender::Client;
use crate::store::Store;
use crate::trace::{Attempt, Tracer};

/// Sends deliveries.
#[derive(Clone)]
pub struct Courier {
    pub directory: Directory,
    pub client: Live<Client>,
    /// What sends e-mails, if anything does.
    pub mailer: Live<Option<Mailer>>,
    pub store: Store,
    pub clock: Clock,
    pub tracer: Tracer,
}

impl Deliver for Courier {
    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        let (message, now) = (&delivery.message, self.clock.now());
        let span = self.tracer.attempt(message, &delivery.endpoint, delivery.attempt, now);
        let trace = span.as_ref().and_then(Attempt::traceparent);
        let outcome = self.send(delivery, now, trace).await;
        if let Some(span) = span {
            span.end(&outcome);
        }
        outcome
    }
}

impl Courier {
    async fn send(&self, delivery: &Delivery, now: DateTime, trace: Option<HeaderValue>) -> Outcome {
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
            Some(mailer) => mailer.attempt(&self.store, &delivery.message, now).await,
            None => Outcome::NotSent,
        }
    }
}
