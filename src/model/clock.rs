//! The one place that reads the wall clock.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use std::time::Duration;

use bson::DateTime;
use nix::time::{ClockId, clock_gettime};

/// The time as the database sees it: the time since this machine's start, plus the offset measured at the last heartbeat.
///
/// Instances on machines whose clocks differ then agree on what is due and what has expired, and nothing moves when somebody
/// sets this machine's clock.
#[derive(Clone, Debug)]
pub struct Clock {
    offset_us: Arc<AtomicI64>,
}

/// A reading of [`Clock::sending`]: microseconds since the machine started.
#[derive(Clone, Copy, Debug)]
pub struct Sending(i64);

impl Default for Clock {
    /// This machine's clock, until the database's is known.
    fn default() -> Self {
        Self::ahead_of_local(Duration::ZERO)
    }
}

impl Clock {
    /// A clock that is ahead of this machine's.
    pub fn ahead_of_local(by: Duration) -> Self {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let offset = read_us(ClockId::CLOCK_REALTIME) - since_boot_us() + by;
        Self {
            offset_us: Arc::new(AtomicI64::new(offset)),
        }
    }

    /// The corrected time, to the millisecond.
    pub fn now(&self) -> DateTime {
        DateTime::from_millis(self.now_us().div_euclid(1000))
    }

    /// To be read before a request that asks for the database's time: see [`Clock::correct`].
    pub fn sending() -> Sending {
        Sending(since_boot_us())
    }

    /// Corrects this clock: `database` is what the database's clock showed between `sent` and now.
    pub fn correct(&self, Sending(sent): Sending, database: DateTime) {
        let before = self.offset_us.load(Ordering::Relaxed);
        let offset = corrected(before, sent, database.timestamp_millis(), since_boot_us());
        self.offset_us.store(offset, Ordering::Relaxed);
    }

    /// By how many milliseconds this clock is ahead of this machine's own: another number once either of them was set.
    pub fn ahead_of_local_ms(&self) -> i64 {
        (self.now_us() - read_us(ClockId::CLOCK_REALTIME)) / 1000
    }

    /// This machine's own time, uncorrected.
    #[allow(clippy::disallowed_methods, reason = "the clock itself")]
    pub fn local() -> DateTime {
        DateTime::now()
    }

    fn now_us(&self) -> i64 {
        since_boot_us() + self.offset_us.load(Ordering::Relaxed)
    }
}

/// `by` after `instant`.
pub fn later(instant: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(instant.timestamp_millis().saturating_add(millis(by)))
}

/// `by` before `instant`.
pub fn earlier(instant: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(instant.timestamp_millis().saturating_sub(millis(by)))
}

/// How long it is until then: zero for the past.
pub fn time_until(instant: DateTime, now: DateTime) -> Duration {
    let millis = instant.timestamp_millis().saturating_sub(now.timestamp_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The offset that agrees with the database's clock having shown the millisecond `database` between `sent` and `received`, and is
/// nearest to the one `before`: a slow reply says little, and must not move the clock. All others in microseconds, `sent` and
/// `received` since the machine started.
fn corrected(before: i64, sent: i64, database: i64, received: i64) -> i64 {
    let database = database * 1000;
    before.clamp(database - received, database + 999 - sent)
}

/// Nobody can set this clock, and it runs while the machine sleeps.
fn since_boot_us() -> i64 {
    read_us(ClockId::CLOCK_BOOTTIME)
}

fn read_us(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| {
        i64::try_from(Duration::from(time).as_micros()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_far_away_is_at_the_end_of_time() {
        let at = DateTime::from_millis;
        for (instant, by, after, before) in [
            (1_000, 300, 1_300, 700),
            (i64::MAX - 1, 1_000, i64::MAX, i64::MAX - 1_001),
            (-2, u64::MAX, i64::MAX - 2, i64::MIN),
        ] {
            let by = Duration::from_millis(by);
            let expected = (at(after), at(before));
            assert_eq!(
                (later(at(instant), by), earlier(at(instant), by)),
                expected,
                "{by:?} from {instant}"
            );
        }
        for (instant, now, left) in [
            (1_300, 1_000, 300),
            (1_000, 1_000, 0),
            (1_000, 1_300, 0),
            (i64::MAX, -1, i64::MAX),
        ] {
            let expected = Duration::from_millis(left.unsigned_abs());
            assert_eq!(time_until(at(instant), at(now)), expected, "{instant} at {now}");
        }
    }

    #[test]
    fn the_clock_moves_only_as_far_as_a_reply_proves() {
        let table = [
            ("at one time", 0, (1_000_000, 1_000, 1_000_000), 0),
            ("a slow reply, the clocks agree", 0, (1_000_000, 1_900, 2_000_000), 0),
            ("a slow request, the clocks agree", 0, (1_000_000, 1_100, 2_000_000), 0),
            ("within the millisecond", 700, (1_000_000, 1_000, 1_000_100), 700),
            ("the database is ahead", 0, (1_000_000, 5_000, 1_010_000), 3_990_000),
            (
                "a later reply agrees with that",
                3_990_000,
                (2_000_000, 5_999, 2_020_000),
                3_990_000,
            ),
            ("the database is behind", 0, (5_000_000, 1_000, 5_010_000), -3_999_001),
            (
                "the database's clock is set back",
                3_990_000,
                (3_000_000, 1_000, 3_010_000),
                -1_999_001,
            ),
        ];
        for (what, before, (sent, database, received), offset) in table {
            assert_eq!(corrected(before, sent, database, received), offset, "{what}");
        }
    }
}
