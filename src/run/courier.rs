//! What the workers send with: the endpoint as it is configured at the time of the attempt, and the client.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::delivery::Client;
use crate::dispatch::Deliver;
use crate::model::{Clock, Failure, Live, Outcome};
use crate::outbox::Claimed;
use crate::platform::{Directory, Found};

/// Sends deliveries.
#[derive(Clone)]
pub struct Courier {
    /// Who the endpoints are now.
    pub directory: Directory,
    /// What sends.
    pub client: Live<Client>,
    /// The time.
    pub clock: Clock,
    /// Whose lanes are whose now.
    pub cluster: Cluster,
}

impl Deliver for Courier {
    async fn attempt(&self, delivery: &Claimed) -> Outcome {
        if !self.cluster.owns(&delivery.endpoint) {
            // The lane has moved to another daemon since this was claimed.
            return Outcome::Interrupted;
        }
        match self.directory.find(&delivery.endpoint) {
            Found::Endpoint(endpoint) if endpoint.enabled => {
                self.client
                    .get()
                    .attempt(&endpoint, &delivery.message, self.clock.now())
                    .await
            }
            Found::Endpoint(_) => Outcome::Cancelled {
                reason: "the endpoint was disabled".into(),
            },
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
}
