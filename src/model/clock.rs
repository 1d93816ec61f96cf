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
    /// before the request) and now. Returns the offset in milliseconds.
    pub fn correct(&self, sent: DateTime, database: DateTime) -> i64 {
        let midpoint = i64::midpoint(sent.timestamp_millis(), local_ms());
        let offset = database.timestamp_millis() - midpoint;
        self.offset_ms.store(offset, Ordering::Relaxed);
        offset
    }

    /// This machine's own time, uncorrected.
    pub fn local() -> DateTime {
        DateTime::from_millis(local_ms())
    }
}

#[allow(clippy::disallowed_methods, reason = "the clock itself")]
fn local_ms() -> i64 {
    DateTime::now().timestamp_millis()
}
