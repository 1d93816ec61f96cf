//! The permits for requests in flight, in all: a semaphore whose size a reload can change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Permits, handed out in the order of asking. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Permits {
    semaphore: Arc<Semaphore>,
    size: Arc<AtomicUsize>,
}

impl Permits {
    /// So many.
    pub fn new(size: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(size)),
            size: Arc::new(AtomicUsize::new(size)),
        }
    }

    /// Waits for one.
    pub async fn acquire(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.semaphore.acquire().await.ok()
    }

    /// How many are out.
    pub fn in_use(&self) -> usize {
        self.size
            .load(Ordering::Relaxed)
            .saturating_sub(self.semaphore.available_permits())
    }

    /// From now on so many. Fewer take effect as those that are out come back.
    pub fn resize(&self, size: usize) {
        let before = self.size.swap(size, Ordering::Relaxed);
        if size >= before {
            self.semaphore.add_permits(size - before);
            return;
        }
        let (semaphore, surplus) = (
            Arc::clone(&self.semaphore),
            u32::try_from(before - size).unwrap_or(u32::MAX),
        );
        tokio::spawn(async move {
            if let Ok(permits) = semaphore.acquire_many(surplus).await {
                permits.forget();
            }
        });
    }
}
