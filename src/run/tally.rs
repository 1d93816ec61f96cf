//! What became of attempts: counted, and logged with the fields that operators look for.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::dispatch::Observer;
use crate::metrics::Counts;
use crate::model::{Clock, Concerns, Failure, Outcome};
use crate::outbox::{Delivery, Next};

#[derive(Clone, Debug)]
pub struct Tally {
    /// What became of attempts since the start.
    pub counts: Arc<Counts>,
    clock: Clock,
}

impl Tally {
    pub fn new(clock: Clock) -> Self {
        Self {
            counts: Arc::default(),
            clock,
        }
    }
}

/// Logs one line about a delivery, with the same fields at every level.
macro_rules! line {
    ($level:ident, $delivery:expr, $status:expr, $elapsed:expr, $($rest:tt)+) => {
        $level!(
            event_type = $delivery.message.event_type.as_str(),
            event_id = $delivery.message.event_id.as_str(),
            organization = $delivery.endpoint.organization(),
            endpoint = $delivery.endpoint.endpoint(),
            attempt = $delivery.attempt,
            status = $status,
            duration_ms = millis($elapsed),
            $($rest)+
        )
    };
}

impl Observer for Tally {
    fn attempted(&self, delivery: &Delivery, outcome: &Outcome, next: &Next) {
        self.counts.count(delivery, outcome, next, self.clock.now());
        match next {
            Next::Delivered { status } => delivered(delivery, *status, outcome),
            Next::Retry { failure, .. } => failed(delivery, failure),
            Next::Dead { failure, .. } if delivery.redriven => {
                line!(debug, delivery, failure.status, failure.elapsed, reason = %failure.reason, "still a dead letter");
            }
            Next::Dead { verdict, failure, .. } => {
                line!(error, delivery, failure.status, failure.elapsed, reason = %failure.reason,
                    "dead letter: {verdict}; kept, `certhookd status` counts it");
            }
            Next::Cancelled { reason } => {
                line!(info, delivery, None::<u16>, Duration::ZERO, reason = %reason, "delivery cancelled: {reason}; kept");
            }
        }
    }
}

/// A first attempt that succeeds is logged at DEBUG, a later one at INFO.
fn delivered(delivery: &Delivery, status: u16, outcome: &Outcome) {
    let Outcome::Delivered { elapsed, .. } = outcome else {
        return;
    };
    if delivery.attempt == 1 {
        line!(debug, delivery, status, *elapsed, "delivered");
    } else {
        line!(
            info,
            delivery,
            status,
            *elapsed,
            "delivered after {} attempts",
            delivery.attempt
        );
    }
}

/// The first failure of a delivery is logged at WARN, those that follow at DEBUG; so is one that concerns every delivery of its endpoint,
/// of which the circuit breaker tells once.
fn failed(delivery: &Delivery, failure: &Failure) {
    if delivery.attempt == 1 && failure.concerns != Concerns::Endpoint {
        line!(warn, delivery, failure.status, failure.elapsed, reason = %failure.reason, "attempt failed; it is made again");
    } else {
        line!(debug, delivery, failure.status, failure.elapsed, reason = %failure.reason, "attempt failed again");
    }
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
