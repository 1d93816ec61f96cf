//! What asks for a scan: the schedule, a signal, the start. While one runs, any number of rings make exactly one more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Rings for a scan. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ScanBell(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    rung: Notify,
    asked: AtomicBool,
}

impl ScanBell {
    /// Asks for a scan; one that is asked for already is enough.
    pub fn ring(&self) {
        self.0.asked.store(true, Ordering::Release);
        self.0.rung.notify_one();
    }

    /// Has a scan run because a certificate expires just now: nobody asked, and nobody waits for its report.
    pub fn nudge(&self) {
        self.0.rung.notify_one();
    }

    /// Waits until a scan is asked for; `false` if by nudges alone.
    pub async fn rung(&self) -> bool {
        self.0.rung.notified().await;
        self.0.asked.swap(false, Ordering::AcqRel)
    }
}
