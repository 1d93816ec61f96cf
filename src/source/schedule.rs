//! When to scan: a cron expression in a time zone.

mod timer;

use bson::DateTime;
use chrono::{MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{Cron, JobType};

pub use timer::Timer;

/// A cron expression (second minute hour day month weekday) in a zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub cron: Cron,
    pub zone: Tz,
}

impl Schedule {
    /// The first instant after `now` at which it fires; `None` if it never does.
    ///
    /// Where second, minute and hour are one number each: a local time that a change to summer time skips fires at the instant the
    /// clock jumps, and one that a change back repeats fires the first time only. All other expressions name no single time of the
    /// day: they fire at every second that matches, in both passes of a repeated hour, and skipped times are skipped.
    pub fn next_after(&self, now: DateTime) -> Option<DateTime> {
        let now = Utc.timestamp_opt(now.timestamp_millis().div_euclid(1000), 0).single()?;
        let now = now.with_timezone(&self.zone);
        let next = match self.cron.determine_job_type() {
            JobType::FixedTime => self.next_fixed(&now),
            JobType::IntervalWildcard => self.next_of_many(&now),
        };
        Some(DateTime::from_millis(next?.timestamp_millis()))
    }

    /// Asks `croner` for the local time alone, as if there were no zone: in one, it takes the last time before a skipped hour for
    /// one within it.
    fn next_fixed(&self, now: &chrono::DateTime<Tz>) -> Option<chrono::DateTime<Tz>> {
        let mut local = now.naive_local().and_utc();
        loop {
            local = self.find(&local)?;
            let at = self.first_at_or_after(local.naive_utc())?;
            // Not a repeated time whose first pass is over.
            if at > *now {
                return Some(at);
            }
        }
    }

    /// The first pass of a local time, or the end of the gap that skips it. A zone that changes sides of the date line skips a day.
    fn first_at_or_after(&self, local: NaiveDateTime) -> Option<chrono::DateTime<Tz>> {
        (0..=86_400).find_map(|second| {
            let local = local.checked_add_signed(TimeDelta::seconds(second))?;
            self.zone.from_local_datetime(&local).earliest()
        })
    }

    fn next_of_many(&self, now: &chrono::DateTime<Tz>) -> Option<chrono::DateTime<Tz>> {
        let next = self.find(now);
        match self.in_second_pass(now) {
            Some(again) => Some(next.filter(|next| (*now..again).contains(next)).unwrap_or(again)),
            None => next.and_then(|next| self.skip_past(next, now)),
        }
    }

    fn find<Z: TimeZone>(&self, after: &chrono::DateTime<Z>) -> Option<chrono::DateTime<Z>> {
        self.cron.find_next_occurrence(after, false).ok()
    }

    /// The next match after the clock went back, where `now` is within a repeated hour, in its first pass or its second: `croner`
    /// knows the wall clock alone, and takes a repeated time for its first pass.
    fn in_second_pass(&self, now: &chrono::DateTime<Tz>) -> Option<chrono::DateTime<Tz>> {
        let MappedLocalTime::Ambiguous(_, second) = self.zone.from_local_datetime(&now.naive_local()) else {
            return None;
        };
        let offset = second.offset().fix();
        let mut at = now.with_timezone(&offset);
        loop {
            at = self.find(&at)?;
            let local = at.with_timezone(&self.zone);
            if local.offset().fix() == offset {
                return Some(local);
            }
        }
    }

    /// `next`, or what follows it where the first pass of a repeated hour, which `next` is in, is over at `now`.
    fn skip_past(&self, mut next: chrono::DateTime<Tz>, now: &chrono::DateTime<Tz>) -> Option<chrono::DateTime<Tz>> {
        while next <= *now {
            next = self.find(&next)?;
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests;
