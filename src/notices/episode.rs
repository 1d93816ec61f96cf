//! An episode: the time in which an endpoint fails, from the first of its failures until it has been well for a while. Pure functions
//! of what happens to it and when.
//!
//! * It **fails** after [`FAILURES`] failures in a row, the first of them at least `failing_after` ago: the platform is told, once.
//! * It is **suspended** after [`FAILURES`] failures in a row, the first of them at least `suspend_after` ago, or by a 410: the platform
//!   is told.
//! * A success ends the suspension. It has **recovered** when it has been well for `failing_after`: no [`FAILURES`] failures in a row
//!   since its first success, and none after the last. So an endpoint that flaps is told of as one episode.
//! * Nobody is told of an endpoint that was well again before.
//!
//! Example, with `failing_after` = 15 min: failures from 10:00 on, told at 10:15, a success at 10:20, failures from 10:25 to 10:40, a
//! success at 10:41: the episode goes on, and its end is told at 10:56.

use std::time::Duration;

use bson::DateTime;

use crate::model::later;

/// This many failures in a row are more than bad luck.
pub const FAILURES: i64 = 10;

/// The clocks of two instances, as the heartbeats correct them, differ by less, delays included.
pub const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// How long an endpoint must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Until the platform is told.
    pub failing_after: Duration,
    /// Until nothing is sent to it any more.
    pub suspend_after: Duration,
}

/// What is remembered of an endpoint that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// When its first attempt failed.
    pub since: DateTime,
    /// Failures since then.
    pub failures: i64,
    /// Failures since the last success.
    pub in_a_row: i64,
    /// When the first of these failed.
    pub in_a_row_since: DateTime,
    /// The last attempt that failed.
    pub last: FailedAttempt,
    /// Whether the platform is told of it, or would be if `notices.url` were set.
    pub is_told: bool,
    /// When it first succeeded, if it has not failed [`FAILURES`] times in a row since.
    pub well_since: Option<DateTime>,
    /// Deliveries that it accepted since then.
    pub delivered: i64,
    /// Set while nothing is sent to it but probes.
    pub suspended: Option<Suspension>,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// When it ended.
    pub at: DateTime,
    /// The response's status, if there was a response.
    pub status: Option<u16>,
    /// What failed, in one line.
    pub reason: String,
    /// The id of the event that was to be delivered.
    pub event: String,
}

/// Since when, and why, nothing is sent to an endpoint but probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// When it began.
    pub since: DateTime,
    /// Whether a 410 was the reason, and not a long time of failures.
    pub is_gone: bool,
    /// What the endpoint's configuration was then: when it is another, the suspension ends.
    pub fingerprint: u64,
    /// When a delivery was last sent to it, to see whether it answers again.
    pub probed_at: Option<DateTime>,
}

impl Suspension {
    /// When the next probe may go out. A last one that is later than `now` was noted by a clock that was wrong, and doesn't count.
    pub fn next_probe(&self, every: Duration, now: DateTime) -> DateTime {
        match self.last_probe() {
            last if last > later(now, CLOCKS_DIFFER) => now,
            last => later(last, every),
        }
    }

    /// The time between two probes counts from then.
    pub fn last_probe(&self) -> DateTime {
        self.probed_at.unwrap_or(self.since)
    }
}

/// What the platform is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It fails.
    Failing,
    /// Nothing is sent to it any more.
    Suspended(Suspension),
    /// It is well again.
    Recovered,
}

impl Episode {
    fn new(last: FailedAttempt) -> Self {
        Self {
            since: last.at,
            failures: 0,
            in_a_row: 0,
            in_a_row_since: last.at,
            last,
            is_told: false,
            well_since: None,
            delivered: 0,
            suspended: None,
        }
    }

    /// Whether it has lasted long enough to be written down.
    pub fn is_lasting(&self) -> bool {
        self.is_told || self.suspended.is_some() || self.in_a_row >= FAILURES
    }

    /// Since when the endpoint is suspended, if it is.
    pub fn suspended_since(&self) -> Option<DateTime> {
        Some(self.suspended.as_ref()?.since)
    }

    /// When [`recovered`] may say that it has ended.
    pub fn ends_at(&self, rules: &Rules) -> Option<DateTime> {
        let well_since = self.well_since.filter(|_| self.in_a_row == 0)?;
        Some(later(well_since, rules.failing_after))
    }

    fn reset_in_a_row(&mut self, at: DateTime) {
        (self.in_a_row, self.in_a_row_since) = (0, at);
    }
}

/// An attempt failed; `is_gone`: by a 410. `fingerprint` is that of the endpoint's configuration.
pub fn failed(
    episode: Option<Episode>,
    attempt: FailedAttempt,
    is_gone: bool,
    fingerprint: u64,
    rules: &Rules,
) -> (Episode, Vec<Told>) {
    let at = attempt.at;
    let mut episode = episode.unwrap_or_else(|| Episode::new(attempt.clone()));
    if episode.in_a_row == 0 {
        episode.in_a_row_since = at;
    }
    // Later than now: by another clock.
    episode.in_a_row_since = episode.in_a_row_since.min(at);
    episode.failures += 1;
    episode.in_a_row += 1;
    episode.last = attempt;
    if episode.in_a_row >= FAILURES {
        (episode.well_since, episode.delivered) = (None, 0);
    }
    let mut told = Vec::new();
    let lasts = |least| episode.in_a_row >= FAILURES && at >= later(episode.in_a_row_since, least);
    let (is_failing, is_hopeless) = (lasts(rules.failing_after), lasts(rules.suspend_after));
    if is_failing && !episode.is_told {
        told.push(Told::Failing);
    }
    if episode.suspended.is_none() && (is_gone || is_hopeless) {
        let suspension = Suspension {
            since: at,
            is_gone,
            fingerprint,
            probed_at: None,
        };
        episode.suspended = Some(suspension.clone());
        told.push(Told::Suspended(suspension));
    }
    episode.is_told |= !told.is_empty();
    (episode, told)
}

/// An attempt failed, but the fault is ours: how long the endpoint fails is not known.
pub fn failed_by_us(episode: Episode, at: DateTime) -> Option<Episode> {
    match episode.suspended {
        Some(_) => Some(episode),
        None => restarted(episode, at),
    }
}

/// For that long until `now` nothing could be sent to it, and the fault was ours: that time doesn't count.
pub fn postponed(mut episode: Episode, by: Duration, now: DateTime) -> Episode {
    episode.in_a_row_since = later(episode.in_a_row_since, by).min(now);
    episode
}

/// A delivery was accepted.
pub fn succeeded(mut episode: Episode, at: DateTime, rules: &Rules) -> (Option<Episode>, Option<Told>) {
    if !episode.is_told {
        return (None, None);
    }
    episode.suspended = None;
    episode.reset_in_a_row(at);
    // Later than now: by another clock.
    episode.well_since = Some(episode.well_since.map_or(at, |since| since.min(at)));
    episode.delivered += 1;
    recovered(episode, at, rules)
}

/// Whether it has ended by `now`: then the platform is told.
pub fn recovered(episode: Episode, now: DateTime, rules: &Rules) -> (Option<Episode>, Option<Told>) {
    match episode.ends_at(rules) {
        Some(end) if end <= now => (None, Some(Told::Recovered)),
        _ => (Some(episode), None),
    }
}

/// The endpoint's configuration has changed, or somebody released it: its failures in a row count from zero again.
/// Whether the platform was told stays.
pub fn restarted(mut episode: Episode, at: DateTime) -> Option<Episode> {
    episode.suspended = None;
    if episode.in_a_row > 0 {
        // It has failed since: until another success it is not well.
        (episode.well_since, episode.delivered) = (None, 0);
    }
    episode.reset_in_a_row(at);
    episode.is_told.then_some(episode)
}

#[cfg(test)]
mod tests;
