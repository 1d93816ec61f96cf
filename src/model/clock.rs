//! The one place that reads the wall clock.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use bson::DateTime;

/// The time as the database sees it: this machine's clock, corrected by the offset measured at the last heartbeat.
///
/// Daemons on machines whose clocks differ then agree on what is due and what has expired.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The corrected time, to the millisecond.
    pub fn now(&self) -> DateTime {
        DateTime::from_millis(local_ms() + self.offset_ms.load(Ordering::Relaxed))
    }

    /// Corrects this clock: `database` is what the database's clock showed between `sent` (a [`Clock::local`] reading
    /// before the request) and now.
    pub fn correct(&self, sent: DateTime, database: DateTime) {
        let before = self.offset_ms.load(Ordering::Relaxed);
        let offset = corrected(before, sent.timestamp_millis(), database.timestamp_millis(), local_ms());
        self.offset_ms.store(offset, Ordering::Relaxed);
    }

    /// This machine's own time, uncorrected.
    pub fn local() -> DateTime {
        DateTime::from_millis(local_ms())
    }
}

/// The offset that agrees with the database's clock having shown `database` between `sent` and `received`, and is nearest to
/// the one `before`: a slow reply says little, and must not move the clock. All in milliseconds.
fn corrected(before: i64, sent: i64, database: i64, received: i64) -> i64 {
    let least = database - received.max(sent);
    before.clamp(least, database - sent)
}

#[allow(clippy::disallowed_methods, reason = "the clock itself")]
fn local_ms() -> i64 {
    DateTime::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_only_as_far_as_a_reply_proves() {
        let table = [
            ("at one time", 0, (1_000, 1_000, 1_000), 0),
            ("a slow reply, the clocks agree", 0, (1_000, 1_900, 2_000), 0),
            ("a slow request, the clocks agree", 0, (1_000, 1_100, 2_000), 0),
            ("the database is ahead", 0, (1_000, 5_000, 1_010), 3_990),
            ("a later reply agrees with that", 3_990, (2_000, 5_999, 2_020), 3_990),
            ("the database is behind", 0, (5_000, 1_000, 5_010), -4_000),
            ("the own clock was set back meanwhile", 0, (5_000, 5_005, 1_000), 5),
        ];
        for (what, before, (sent, database, received), offset) in table {
            assert_eq!(corrected(before, sent, database, received), offset, "{what}");
        }
    }
}
