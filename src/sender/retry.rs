//! How long to wait before the next attempt. Pure: the caller draws the jitter.

use std::time::Duration;

/// The wait after the first failed attempt; each later one is twice the one before, up to the cap.
const FIRST_DELAY: f64 = 0.5;
/// Jitter moves a delay by up to this share, up or down, so that the mean stays.
const SPREAD: f64 = 0.2;
/// The share of the period that the delays fill; the rest is for the attempts' own time and unlucky jitter.
const FILL: f64 = 0.95;
/// Bounds the search for the cap; that many doublings outlast any period.
const MAX_DOUBLINGS: u32 = 64;

/// How often, and for how long, a delivery is attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub max_attempts: u32,
    /// The retry period: the time after the first attempt in which the others happen.
    pub period: Duration,
}

impl RetryPolicy {
    /// The wait after failed attempt number `attempt`, the first being 1. `jitter` in `0..1` moves it by up to 20 % around
    /// its mean.
    ///
    /// Exponential: 500 ms, 1 s, 2 s and so on, capped such that `max_attempts` attempts fill the period: 100 in 10 min
    /// give a cap of 5.9 s. Where doubling alone stays inside the period there is no cap, and the attempts end before it.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let mean = uncapped(attempt.saturating_sub(1)).min(self.cap());
        Duration::from_secs_f64(mean * (1.0 + SPREAD * (2.0 * jitter.clamp(0.0, 1.0) - 1.0)))
    }

    /// The longest mean delay, in seconds: with `doublings` delays below it, the others share what is left of the period.
    fn cap(&self) -> f64 {
        let delays = self.max_attempts.saturating_sub(1);
        let target = self.period.as_secs_f64() * FILL;
        (0..delays.min(MAX_DOUBLINGS))
            .map(|doublings| {
                let used = uncapped(doublings) - FIRST_DELAY;
                (doublings, (target - used) / f64::from(delays - doublings))
            })
            .find(|&(doublings, cap)| cap <= uncapped(doublings))
            .map_or(target, |(_, cap)| cap)
    }
}

/// The delay after `doublings` doublings, in seconds. Their sum up to but without it is `uncapped(doublings) - FIRST_DELAY`.
fn uncapped(doublings: u32) -> f64 {
    FIRST_DELAY * f64::from(doublings.min(MAX_DOUBLINGS)).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(max_attempts: u32, seconds: f64) -> RetryPolicy {
        RetryPolicy {
            max_attempts,
            period: Duration::from_secs_f64(seconds),
        }
    }

    fn sum(policy: RetryPolicy, jitter: f64) -> f64 {
        (1..policy.max_attempts)
            .map(|attempt| policy.delay(attempt, jitter).as_secs_f64())
            .sum()
    }

    #[test]
    fn a_hundred_attempts_fill_ten_minutes() {
        let contract = policy(100, 600.0);
        let first: Vec<_> = (1..=5)
            .map(|attempt| contract.delay(attempt, 0.5).as_millis())
            .collect();
        assert_eq!(first, [500, 1000, 2000, 4000, 5921]);
        assert_eq!(contract.delay(99, 0.5), contract.delay(5, 0.5));
        let filled = sum(contract, 0.5);
        assert!((540.0..600.0).contains(&filled), "{filled}");
    }

    #[test]
    fn jitter_moves_a_delay_by_a_fifth_around_its_mean() {
        let at = |jitter| policy(100, 600.0).delay(2, jitter).as_millis();
        assert_eq!((at(0.0), at(0.5), at(1.0)), (800, 1000, 1200));
    }

    #[test]
    fn few_attempts_in_a_long_period_just_double() {
        let few = policy(3, 3600.0);
        assert_eq!(
            (few.delay(1, 0.5).as_millis(), few.delay(2, 0.5).as_millis()),
            (500, 1000)
        );
    }

    #[test]
    fn many_attempts_in_a_short_period_are_even() {
        let many = policy(1000, 10.0);
        assert_eq!(many.delay(1, 0.5), many.delay(999, 0.5));
        assert!((9.0..10.0).contains(&sum(many, 0.5)));
    }

    #[test]
    fn a_single_attempt_has_no_delays_to_sum_but_a_sane_one() {
        assert!(policy(1, 600.0).delay(1, 0.5) <= Duration::from_secs(1));
        assert!(policy(0, 0.0).delay(0, 1.0) <= Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn the_delays_stay_within_the_period_and_never_shrink(max in 1_u32..2000, seconds in 0.0..1e6_f64) {
            let policy = policy(max, seconds);
            prop_assert!(sum(policy, 0.5) <= seconds);
            for attempt in 1..max.min(70) {
                prop_assert!(policy.delay(attempt, 0.5) <= policy.delay(attempt + 1, 0.5));
            }
        }

        #[test]
        fn attempts_that_outnumber_the_doublings_fill_the_period(max in 20_u32..2000, seconds in 1.0..1e5_f64) {
            let filled = sum(policy(max, seconds), 0.5);
            prop_assert!(filled >= 0.9 * seconds, "{filled} of {seconds}");
        }

        #[test]
        fn any_input_gives_a_delay(attempt: u32, max: u32, ms in 0_u64..10_000_000_000, jitter in -1.0..2.0_f64) {
            policy(max, ms as f64 / 1000.0).delay(attempt, jitter);
        }
    }
}
