//! Endpoints for which something must be done, each once.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::EndpointKey;

/// Endpoints whose deliveries must be cancelled, or must go out behind others.
#[derive(Clone, Debug, Default)]
pub struct EndpointSet(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    endpoints: Mutex<BTreeSet<EndpointKey>>,
    added: Notify,
}

impl EndpointSet {
    /// Adds one, unless it is there.
    pub fn add(&self, endpoint: EndpointKey) {
        if self.0.endpoints.lock().insert(endpoint) {
            self.0.added.notify_one();
        }
    }

    /// Removes all.
    pub fn take(&self) -> BTreeSet<EndpointKey> {
        std::mem::take(&mut *self.0.endpoints.lock())
    }

    /// Waits for one, and removes it.
    pub async fn next(&self) -> EndpointKey {
        loop {
            if let Some(endpoint) = self.0.endpoints.lock().pop_first() {
                return endpoint;
            }
            self.0.added.notified().await;
        }
    }
}
