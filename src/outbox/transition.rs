//! What becomes of a delivery after an attempt: a pure function. The rules are those of docs/receivers.md.

use bson::DateTime;

use crate::model::{Failure, Outcome, count, earlier, later};
use crate::sender::RetryPolicy;

/// The attempts of a delivery so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastAttempts {
    /// The number of the attempt that has just ended, from 1.
    pub attempt: u32,
    /// When the first attempt that failed began.
    pub first_attempt_at: Option<DateTime>,
    /// Since when its endpoint is served again after its deliveries had to wait: its retry period begins no earlier.
    pub served_since: Option<DateTime>,
    /// Whether it is a dead letter that went out again by itself: it has this one attempt.
    pub redriven: bool,
}

/// What must be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Done.
    Delivered {
        /// The response's status.
        status: u16,
    },
    /// Attempted again, not before `due`.
    Retry {
        /// The earliest instant of the next attempt.
        due: DateTime,
        /// When the first attempt that failed began.
        first_attempt_at: DateTime,
        /// What failed.
        failure: Failure,
    },
    /// A dead letter: attempts or retry period used up, or a permanent failure.
    Dead {
        /// Why it ended here, e.g. `100 attempts failed`.
        verdict: String,
        /// What failed last.
        failure: Failure,
        /// Whether it goes out again by itself once the endpoint answers: not after a permanent failure.
        redrivable: bool,
    },
    /// The endpoint or the user no longer exists.
    Cancelled {
        /// Why.
        reason: String,
    },
}

/// Says what becomes of a delivery whose attempt ended at `now` in `outcome`; `None` if nothing was attempted. `jitter` is
/// between 0 and 1.
pub fn transition(
    past: &PastAttempts,
    outcome: &Outcome,
    now: DateTime,
    policy: &RetryPolicy,
    jitter: f64,
) -> Option<Next> {
    let dead = |verdict: &str, failure: &Failure| Next::Dead {
        verdict: verdict.into(),
        failure: failure.clone(),
        redrivable: false,
    };
    Some(match outcome {
        Outcome::Delivered { status, .. } => Next::Delivered { status: *status },
        Outcome::Cancelled { reason } => Next::Cancelled { reason: reason.clone() },
        Outcome::NotSent | Outcome::ProxyUnavailable { .. } => return None,
        Outcome::Gone(failure) | Outcome::PermanentFailure(failure) | Outcome::TransientFailure(failure)
            if failure.is_probe =>
        {
            Next::Retry {
                // After all that waits as well: the next probe is another delivery.
                due: now,
                first_attempt_at: past.first_attempt_at.unwrap_or(now),
                failure: failure.clone(),
            }
        }
        Outcome::Gone(failure) => dead("410 Gone: not retried", failure),
        Outcome::PermanentFailure(failure) => dead("permanent failure: not retried", failure),
        Outcome::TransientFailure(failure) => after_failure(past, failure, now, policy, jitter),
    })
}

fn after_failure(past: &PastAttempts, failure: &Failure, now: DateTime, policy: &RetryPolicy, jitter: f64) -> Next {
    let began = earlier(now, failure.elapsed);
    let first_attempt_at = past.first_attempt_at.unwrap_or(began);
    let dead = |verdict: String| Next::Dead {
        verdict,
        failure: failure.clone(),
        redrivable: true,
    };
    if past.redriven {
        return dead("it failed again after it was a dead letter".into());
    }
    if past.attempt >= policy.max_attempts {
        return dead(format!("{} failed", count(past.attempt, "attempt")));
    }
    let backoff = policy.delay(past.attempt, jitter);
    let due = later(now, backoff.max(failure.retry_after.unwrap_or_default()));
    let deadline = retry_deadline(first_attempt_at, past.served_since, policy);
    if now >= deadline {
        return dead(format!(
            "the retry period ended after {}",
            count(past.attempt, "attempt")
        ));
    }
    // What would be due after the retry period is attempted once more at its end.
    Next::Retry {
        due: due.min(deadline),
        first_attempt_at,
        failure: failure.clone(),
    }
}

/// When the retry period of a delivery ends that was first attempted then: it counts from when its endpoint was served again,
/// if that was later.
pub fn retry_deadline(first_attempt_at: DateTime, served_since: Option<DateTime>, policy: &RetryPolicy) -> DateTime {
    let start = served_since.map_or(first_attempt_at, |since| since.max(first_attempt_at));
    later(start, policy.period)
}

#[cfg(test)]
mod tests;
