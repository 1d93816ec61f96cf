//! The last hour, minute by minute, made of counts that are read once a second: an attempt costs no more for it.

use std::collections::VecDeque;
use std::sync::Arc;

use bson::DateTime;
use parking_lot::Mutex;

/// This many minutes are remembered, the present one among them.
pub const MINUTES: i64 = 60;

const MINUTE_MS: i64 = 60_000;

/// What one process delivered in the last hour.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The counts when they were last added.
    delivered: u64,
    failed: u64,
    minutes: VecDeque<Minute>,
}

/// One minute; one in which no counts were read is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970.
    pub number: i64,
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
}

impl History {
    /// Adds what the counts since the start say more than before.
    pub fn add(&self, now: DateTime, delivered: u64, failed: u64) {
        let mut state = self.0.lock();
        let more_delivered = delivered - std::mem::replace(&mut state.delivered, delivered);
        let more_failed = failed - std::mem::replace(&mut state.failed, failed);
        let number = now.timestamp_millis().div_euclid(MINUTE_MS);
        // A clock that was set back goes on in the minute in which it was.
        if state.minutes.back().is_none_or(|last| last.number < number) {
            state.minutes.push_back(Minute {
                number,
                delivered: 0,
                failed: 0,
            });
        }
        while state
            .minutes
            .front()
            .is_some_and(|first| first.number <= number - MINUTES)
        {
            state.minutes.pop_front();
        }
        if let Some(minute) = state.minutes.back_mut() {
            minute.delivered += more_delivered;
            minute.failed += more_failed;
        }
    }

    /// The minutes, the earliest first.
    pub fn minutes(&self) -> Vec<Minute> {
        self.0.lock().minutes.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime {
        DateTime::from_millis(second * 1000)
    }

    fn minutes(history: &History) -> Vec<(i64, u64, u64)> {
        let minutes = history.minutes().into_iter();
        minutes
            .map(|minute| (minute.number, minute.delivered, minute.failed))
            .collect()
    }

    #[test]
    fn each_minute_has_what_came_in_it_even_if_the_clock_is_set_back() {
        let history = History::default();
        for (second, delivered, failed) in [(59, 3, 0), (61, 5, 1), (58, 6, 1), (119, 6, 2), (180, 7, 2)] {
            history.add(at(second), delivered, failed);
        }
        assert_eq!(minutes(&history), [(0, 3, 0), (1, 3, 2), (3, 1, 0)]);
    }

    #[test]
    fn an_hour_is_remembered_and_no_more() {
        let history = History::default();
        (0..200).for_each(|minute| history.add(at(minute * 60), 0, 0));
        let minutes = minutes(&history);
        assert_eq!((minutes.len(), minutes[0].0), (60, 140));
    }
}
