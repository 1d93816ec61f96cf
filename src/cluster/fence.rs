//! How old this instance's last confirmed heartbeat is, and what it may still do.
//!
//! The age counts from when the heartbeat was *sent*, on a clock that also runs while the machine sleeps. So the others never
//! take this instance for dead (10 s after MongoDB noted the heartbeat) before it takes itself for silent. A process that is
//! frozen can't do this: its requests that are open then are the stated exception.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// From this age on no request begins.
pub const NO_NEW_REQUESTS: Duration = Duration::from_secs(8);

/// At this age requests in flight are cut short.
pub const CUT_SHORT: Duration = Duration::from_millis(9_500);

/// The age of the last confirmed heartbeat.
#[derive(Debug, Default)]
pub(super) struct Fence {
    /// Milliseconds on the machine's clock since its start when the heartbeat was sent; 0: none was confirmed.
    sent: AtomicU64,
}

/// An instant on the clock that the fence reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent(u64);

impl Fence {
    /// Now: a heartbeat is about to be sent.
    pub(super) fn sending() -> Sent {
        Sent(boot_ms())
    }

    /// The heartbeat that was sent then is confirmed.
    pub(super) fn confirmed(&self, Sent(sent): Sent) {
        self.sent.store(sent, Ordering::Release);
    }

    /// `None` before the first.
    pub(super) fn age(&self) -> Option<Duration> {
        match self.sent.load(Ordering::Acquire) {
            0 => None,
            sent => Some(Duration::from_millis(boot_ms().saturating_sub(sent))),
        }
    }
}

/// Milliseconds since the machine started, asleep or not.
fn boot_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let millis = Duration::from(time).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).max(1)
    })
}
