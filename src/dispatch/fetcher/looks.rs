//! When all queues are looked at.

use std::time::Duration;

use tokio::time::Instant;

use crate::failpoint;
use crate::model::in_about;

/// How often all queues are looked at, unless one of the following holds: what nobody told of is found so.
const EVERY: Duration = Duration::from_secs(1);

/// If nothing that a look finds may be sent, the time to the next one doubles, up to this: [`super::Waiting::look_now`] has one made at once.
const LONGEST: Duration = Duration::from_secs(64);

/// The same where this instance is alone, which knows what it appends: only what somebody restored is found so.
const LONGEST_ALONE: Duration = Duration::from_secs(256);

/// The same where this instance is alone and the outbox empty, which costs little to see.
const LONGEST_EMPTY: Duration = Duration::from_secs(4);

/// After a look there is none for this many times its duration, at most for [`LONGEST_REST`], but at least for twice its duration; where it
/// found no work, for up to a tick less (`model::sleep_about`). One of 85 ms is followed by 4 s without a look, one of 6 s by 12 s.
const REST: u32 = 50;
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What a look found.
#[derive(Clone, Copy, Debug)]
pub(super) enum LookResult {
    /// Something that may be sent, or must be cancelled, or can't be read.
    Work,
    /// Nothing.
    Nothing,
    /// Only what must not be sent now.
    Unsendable,
}

/// The looks of one fetcher.
pub(super) struct Looks {
    /// When the last one ended, and how long it took.
    last: (Instant, Duration),
    next: Instant,
    every: Duration,
    /// In tests each follows this long after the last one, or as soon as `bring_forward` asks for it.
    fixed: Option<Duration>,
}

impl Looks {
    /// The first is due now.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            last: (now, Duration::ZERO),
            next: now,
            every: EVERY,
            fixed: Some(failpoint::limit("look", Duration::ZERO)).filter(|fixed| !fixed.is_zero()),
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// The next one is due as if the last had found work.
    pub(super) fn bring_forward(&mut self) {
        let (ended, took) = self.last;
        self.every = EVERY;
        self.next = self.next.min(ended + EVERY.max(self.rest(took)));
    }

    /// One that ends now took that long and found that. `is_alone`: no other instance is alive.
    pub(super) fn ended(&mut self, took: Duration, found: LookResult, is_alone: bool) {
        let longest = match found {
            LookResult::Work => EVERY,
            LookResult::Nothing if is_alone => LONGEST_EMPTY,
            LookResult::Nothing => EVERY,
            LookResult::Unsendable if is_alone => LONGEST_ALONE,
            LookResult::Unsendable => LONGEST,
        };
        self.every = self.fixed.unwrap_or((self.every * 2).min(longest));
        self.last = (Instant::now(), took);
        let pause = self.every.max(self.rest(took));
        self.next = match found {
            LookResult::Work => Instant::now() + pause,
            LookResult::Nothing | LookResult::Unsendable => in_about(pause),
        };
    }

    /// The next one follows soon: more may be found.
    pub(super) fn again_after(&mut self, took: Duration) {
        self.next = Instant::now() + took * 2;
    }

    fn rest(&self, took: Duration) -> Duration {
        let longest = self.fixed.unwrap_or(LONGEST_REST);
        (took * REST).min(longest).max(took * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    /// The seconds, about, after which looks follow that find this.
    fn pauses(found: LookResult, is_alone: bool) -> Vec<u64> {
        let mut looks = Looks::new();
        let mut pause = || {
            looks.ended(SHORT, found, is_alone);
            let pause = looks.next() - Instant::now();
            assert!(pause.abs_diff(looks.every) < Duration::from_secs(1));
            looks.every.as_secs()
        };
        (0..10).map(|_| pause()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn looks_that_find_nothing_to_send_get_rarer() {
        assert_eq!(
            pauses(LookResult::Unsendable, true),
            [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]
        );
        assert_eq!(pauses(LookResult::Unsendable, false)[5..], [64; 5]);
        assert_eq!(pauses(LookResult::Nothing, true)[1..], [4; 9]);
        assert_eq!(pauses(LookResult::Nothing, false), [1; 10]);
        assert_eq!(pauses(LookResult::Work, true), [1; 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rare_look_is_brought_forward_but_for_the_rest_of_the_last_one() {
        for (took, pause) in [(1, 1_000), (85, 4_250)] {
            let mut looks = Looks::new();
            for _ in 0..9 {
                looks.ended(Duration::from_millis(took), LookResult::Unsendable, true);
            }
            let ended = Instant::now();
            looks.bring_forward();
            assert_eq!(looks.next() - ended, Duration::from_millis(pause));
            tokio::time::advance(Duration::from_secs(60)).await;
            looks.bring_forward();
            assert!(looks.next() < Instant::now(), "at once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn looks_that_take_long_are_rested_from() {
        let millis = Duration::from_millis;
        for (took, pause) in [(10, 1_000), (85, 4_250), (400, 10_000), (6_000, 12_000)] {
            let mut looks = Looks::new();
            looks.ended(millis(took), LookResult::Work, true);
            assert_eq!(looks.next() - Instant::now(), millis(pause), "{took} ms");
        }
    }
}
