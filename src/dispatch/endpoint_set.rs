//! What tells a loop of endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::EndpointKey;

/// Endpoints that a loop must do something for, each once.
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

    /// Removes those, and returns them.
    pub fn drain_if(&self, is_drained: impl Fn(&EndpointKey) -> bool) -> BTreeSet<EndpointKey> {
        let mut endpoints = self.0.endpoints.lock();
        let (drained, left) = std::mem::take(&mut *endpoints).into_iter().partition(is_drained);
        *endpoints = left;
        drained
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
