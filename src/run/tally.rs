//! What became of attempts: counted, and logged with the fields that operators look for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::dispatch::Observer;
use crate::model::{Failure, Outcome};
use crate::outbox::{Claimed, Next};

/// Counts since the start. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
    dead: AtomicU64,
    cancelled: AtomicU64,
}

impl Tally {
    /// Deliveries that succeeded.
    pub fn delivered(&self) -> u64 {
        self.0.delivered.load(Ordering::Relaxed)
    }

    /// Attempts that failed and will be repeated.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Deliveries that became dead letters.
    pub fn dead(&self) -> u64 {
        self.0.dead.load(Ordering::Relaxed)
    }

    /// Deliveries whose endpoint was deleted or disabled.
    pub fn cancelled(&self) -> u64 {
        self.0.cancelled.load(Ordering::Relaxed)
    }
}

/// Logs one line about a delivery, with the same fields at every level.
macro_rules! line {
    ($level:ident, $delivery:expr, $status:expr, $elapsed:expr, $($rest:tt)+) => {
        $level!(
            event_type = $delivery.message.event_type.as_str(),
            event_id = $delivery.message.event_id.as_str(),
            owner = $delivery.endpoint.owner(),
            endpoint = $delivery.endpoint.endpoint(),
            attempt = $delivery.attempts,
            status = $status,
            duration_ms = millis($elapsed),
            $($rest)+
        )
    };
}

impl Observer for Tally {
    fn attempted(&self, delivery: &Claimed, outcome: &Outcome, next: &Next) {
        let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        match next {
            Next::Delivered { status } => {
                add(&self.0.delivered);
                delivered(delivery, *status, outcome);
            }
            Next::Retry { failure, .. } => {
                add(&self.0.failed);
                failed(delivery, failure);
            }
            Next::Dead { failure, .. } if delivery.redriven => {
                line!(debug, delivery, failure.status, failure.elapsed, reason = %failure.reason, "still a dead letter");
            }
            Next::Dead { verdict, failure, .. } => {
                add(&self.0.dead);
                line!(error, delivery, failure.status, failure.elapsed, reason = %failure.reason,
                    "dead letter: {verdict}; kept, `certhookd status` counts it");
            }
            Next::Cancelled { reason } => {
                add(&self.0.cancelled);
                line!(info, delivery, None::<u16>, Duration::ZERO, reason = %reason, "delivery cancelled: {reason}; kept");
            }
            Next::Released => {}
        }
    }
}

/// A first attempt that succeeds is the rule and logged at DEBUG; a recovery is news.
fn delivered(delivery: &Claimed, status: u16, outcome: &Outcome) {
    let Outcome::Delivered { elapsed, .. } = outcome else {
        return;
    };
    if delivery.attempts == 1 {
        line!(debug, delivery, status, *elapsed, "delivered");
    } else {
        line!(
            info,
            delivery,
            status,
            *elapsed,
            "delivered after {} attempts",
            delivery.attempts
        );
    }
}

/// The first failure of a delivery is news, the following ones are expected.
fn failed(delivery: &Claimed, failure: &Failure) {
    if delivery.attempts == 1 {
        line!(warn, delivery, failure.status, failure.elapsed, reason = %failure.reason, "attempt failed; it will be repeated");
    } else {
        line!(debug, delivery, failure.status, failure.elapsed, reason = %failure.reason, "attempt failed again");
    }
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
