//! What asks for a scan: the schedule, a signal, the start. While one runs, any number of rings make exactly one more.

use std::sync::Arc;

use tokio::sync::Notify;

/// Rings for a scan. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ScanBell(Arc<Notify>);

impl ScanBell {
    /// Asks for a scan; one that is asked for already is enough.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits until a scan is asked for.
    pub async fn rung(&self) {
        self.0.notified().await;
    }
}
