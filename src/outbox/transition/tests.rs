//! The rules for attempts in docs/receivers.md, one by one.

use std::time::Duration;

use super::*;
const NOW: i64 = 1_000_000_000;

/// The contract's: 100 attempts within 10 minutes.
const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 100,
    period: Duration::from_secs(600),
};

/// After that attempt; the first one failed this many milliseconds ago.
fn at(attempt: u32, first_failed_ago: Option<i64>) -> PastAttempts {
    PastAttempts {
        attempt,
        first_attempt_at: first_failed_ago.map(|ago| DateTime::from_millis(NOW - ago)),
        served_since: None,
        redriven: false,
    }
}

/// An attempt that failed after 200 ms.
fn failure(retry_after: Option<u64>) -> Failure {
    Failure {
        status: Some(503),
        reason: "status 503".into(),
        retry_after: retry_after.map(Duration::from_secs),
        elapsed: Duration::from_millis(200),
        ..Failure::default()
    }
}

fn next(past: &PastAttempts, outcome: &Outcome) -> Next {
    transition(past, outcome, DateTime::from_millis(NOW), &POLICY, 0.5).expect("something was attempted")
}

/// Expects another attempt in `due_in` milliseconds, the first one having begun `first_ago` milliseconds ago.
fn retried(past: PastAttempts, retry_after: Option<u64>, due_in: i64, first_ago: i64) {
    let failure = failure(retry_after);
    let expected = Next::Retry {
        due: DateTime::from_millis(NOW + due_in),
        first_attempt_at: DateTime::from_millis(NOW - first_ago),
        failure: failure.clone(),
    };
    assert_eq!(next(&past, &Outcome::TransientFailure(failure)), expected);
}

/// Expects a dead letter.
fn dead(past: PastAttempts, retry_after: Option<u64>, verdict: &str) {
    let failure = failure(retry_after);
    let expected = Next::Dead {
        verdict: verdict.into(),
        failure: failure.clone(),
        redrivable: true,
    };
    assert_eq!(next(&past, &Outcome::TransientFailure(failure)), expected);
}

#[test]
fn any_success_delivers_at_any_attempt() {
    for past in [at(1, None), at(100, Some(599_000)), at(7, Some(3_600_000))] {
        let accepted = Outcome::Delivered {
            status: 204,
            elapsed: Duration::ZERO,
            connect: None,
        };
        assert_eq!(next(&past, &accepted), Next::Delivered { status: 204 });
    }
}

#[test]
fn the_retry_period_begins_with_the_first_attempt() {
    retried(at(1, None), None, 500, 200);
    retried(at(2, Some(700)), None, 1000, 700);
}

#[test]
fn pauses_grow_to_a_cap() {
    retried(at(3, Some(2_000)), None, 2000, 2_000);
    retried(at(4, Some(4_000)), None, 4000, 4_000);
    let cap = i64::try_from(POLICY.delay(5, 0.5).as_millis()).unwrap();
    retried(at(5, Some(8_000)), None, cap, 8_000);
    retried(at(99, Some(580_000)), None, cap, 580_000);
}

#[test]
fn the_last_attempt_and_any_beyond_it_end_in_a_dead_letter() {
    dead(at(100, Some(590_000)), None, "100 attempts failed");
    dead(at(101, Some(590_000)), None, "101 attempts failed");
    dead(at(100, Some(590_000)), Some(1), "100 attempts failed");
}

#[test]
fn the_end_of_the_retry_period_is_the_last_chance() {
    retried(at(50, Some(599_000)), None, 1000, 599_000);
    retried(at(50, Some(599_999)), None, 1, 599_999);
    dead(at(50, Some(600_000)), None, "the retry period ended after 50 attempts");
}

#[test]
fn a_time_that_the_receiver_names_is_honoured_within_the_retry_period() {
    retried(at(1, None), Some(30), 30_000, 200);
    retried(at(3, Some(10_000)), Some(1), 2000, 10_000);
    retried(at(1, None), Some(86_400), 600_000 - 200, 200);
    retried(at(1, None), Some(u64::MAX), 600_000 - 200, 200);
    dead(
        at(3, Some(600_000)),
        Some(30),
        "the retry period ended after 3 attempts",
    );
}

#[test]
fn a_permanent_failure_is_final_at_the_first_attempt_and_never_redriven() {
    let expected = |verdict: &str| Next::Dead {
        verdict: verdict.into(),
        failure: failure(None),
        redrivable: false,
    };
    let gone = next(&at(1, None), &Outcome::Gone(failure(None)));
    assert_eq!(gone, expected("410 Gone: not retried"));
    let permanent = next(&at(1, None), &Outcome::PermanentFailure(failure(None)));
    assert_eq!(permanent, expected("permanent failure: not retried"));
}

#[test]
fn a_dead_letter_that_was_tried_once_more_is_dead_again() {
    let past = PastAttempts {
        redriven: true,
        ..at(1, None)
    };
    dead(past, None, "it failed again after it was a dead letter");
}

#[test]
fn a_cancelled_delivery_ends_and_one_that_was_not_sent_changes_nothing() {
    let reason = "the user was deleted".to_owned();
    let cancelled = next(&at(3, Some(1)), &Outcome::Cancelled { reason: reason.clone() });
    assert_eq!(cancelled, Next::Cancelled { reason });
    let not_sent = transition(
        &at(100, Some(700_000)),
        &Outcome::NotSent,
        DateTime::from_millis(NOW),
        &POLICY,
        0.5,
    );
    assert_eq!(not_sent, None);
}

#[test]
fn the_retry_period_begins_anew_when_its_endpoint_is_served_again() {
    let waited = |served_ago: i64| PastAttempts {
        served_since: Some(DateTime::from_millis(NOW - served_ago)),
        ..at(50, Some(86_400_000))
    };
    let cap = i64::try_from(POLICY.delay(50, 0.5).as_millis()).unwrap();
    retried(waited(1_000), None, cap, 86_400_000);
    dead(waited(600_000), None, "the retry period ended after 50 attempts");
    let past = PastAttempts {
        served_since: Some(DateTime::from_millis(NOW - 700_000)),
        ..at(50, Some(1_000))
    };
    retried(past, None, cap, 1_000);
}
