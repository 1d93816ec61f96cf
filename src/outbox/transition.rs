//! What becomes of a delivery after an attempt: a pure function, so that every rule of the contract's section 4 is a row in
//! a test.

use std::time::Duration;

use bson::DateTime;

use crate::delivery::RetryPolicy;
use crate::model::{Failure, Outcome};

use super::Claimed;

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Done.
    Delivered {
        /// The answer's status.
        status: u16,
    },
    /// Tried again, not before `due`.
    Retry {
        /// The earliest instant of the next attempt.
        due: DateTime,
        /// When the first failed attempt began.
        first_attempt_at: DateTime,
        /// What failed.
        failure: Failure,
    },
    /// A dead letter: attempts or window used up, or refused for good.
    Dead {
        /// Why it ended here, e.g. `100 attempts failed`.
        verdict: String,
        /// What failed last.
        failure: Failure,
        /// Whether it is tried again by itself once the endpoint answers: not where it was refused for good.
        redrivable: bool,
    },
    /// Its endpoint is gone.
    Cancelled {
        /// Why.
        reason: String,
    },
    /// Nothing was attempted: back as it was, the attempt not counted.
    Released,
}

/// Says what becomes of `delivery`, whose attempt ended at `now` in `outcome`. `jitter` is between 0 and 1.
pub fn transition(delivery: &Claimed, outcome: &Outcome, now: DateTime, policy: &RetryPolicy, jitter: f64) -> Next {
    match outcome {
        Outcome::Delivered { status, .. } => Next::Delivered { status: *status },
        Outcome::Cancelled { reason } => Next::Cancelled { reason: reason.clone() },
        Outcome::Interrupted => Next::Released,
        Outcome::Gone(failure) => Next::Dead {
            verdict: "the receiver answered 410 Gone".into(),
            failure: failure.clone(),
            redrivable: false,
        },
        Outcome::Refused(failure) => Next::Dead {
            verdict: "no later attempt can mend it".into(),
            failure: failure.clone(),
            redrivable: false,
        },
        Outcome::Failed(failure) => after_failure(delivery, failure, now, policy, jitter),
    }
}

fn after_failure(delivery: &Claimed, failure: &Failure, now: DateTime, policy: &RetryPolicy, jitter: f64) -> Next {
    let began = later(now, failure.elapsed, -1);
    let first_attempt_at = delivery.first_attempt_at.unwrap_or(began);
    let dead = |verdict: String| Next::Dead {
        verdict,
        failure: failure.clone(),
        redrivable: true,
    };
    if delivery.redriven {
        return dead("it failed again after it was a dead letter".into());
    }
    if delivery.attempts >= policy.max_attempts {
        return dead(format!("{} attempts failed", delivery.attempts));
    }
    let backoff = policy.delay(delivery.attempts, jitter);
    let due = later(now, backoff.max(failure.retry_after.unwrap_or_default()), 1);
    let end = later(first_attempt_at, policy.window, 1);
    if now >= end {
        return dead(format!("the retry window ended after {} attempts", delivery.attempts));
    }
    // What would fall behind the window's end is tried once more at its end.
    Next::Retry {
        due: due.min(end),
        first_attempt_at,
        failure: failure.clone(),
    }
}

fn later(instant: DateTime, by: Duration, sign: i64) -> DateTime {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    DateTime::from_millis(instant.timestamp_millis().saturating_add(by.saturating_mul(sign)))
}

#[cfg(test)]
mod tests;
