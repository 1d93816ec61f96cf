//! Endpoints that are switched off or deleted and for which something waits, each once.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::EndpointKey;

/// Endpoints whose deliveries are to be cancelled.
#[derive(Clone, Debug, Default)]
pub struct OffEndpoints(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    endpoints: Mutex<BTreeSet<EndpointKey>>,
    added: Notify,
}

impl OffEndpoints {
    pub(super) fn add(&self, endpoint: EndpointKey) {
        if self.0.endpoints.lock().insert(endpoint) {
            self.0.added.notify_one();
        }
    }

    /// Waits for one, and takes it.
    pub async fn next(&self) -> EndpointKey {
        loop {
            if let Some(endpoint) = self.0.endpoints.lock().pop_first() {
                return endpoint;
            }
            self.0.added.notified().await;
        }
    }
}
