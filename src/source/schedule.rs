//! When to scan: a cron expression in a time zone.
//!
//! `tokio-cron-scheduler` keeps a fixed UTC offset for zoned jobs (its issue 107), an hour off after a daylight-saving
//! change. So the instants come from `croner` with `chrono-tz`, and the scheduler only rings at each.

use std::time::{Duration, Instant};

use bson::DateTime;
use chrono::{MappedLocalTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{Cron, JobType};
use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use crate::model::{Clock, Live};

/// A cron expression (second minute hour day month weekday) in a zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The expression.
    pub cron: Cron,
    /// Its zone.
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
        let next = self.find(&now);
        let next = match self.in_second_pass(&now) {
            Some(again) => Some(next.filter(|next| (now..again).contains(next)).unwrap_or(again)),
            None => next.and_then(|next| self.skip_past(next, &now)),
        };
        Some(DateTime::from_millis(next?.timestamp_millis()))
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
        if self.cron.determine_job_type() == JobType::FixedTime {
            return None;
        }
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

    /// Calls `ring` at each instant of the schedule until `stop`. A schedule that was replaced takes effect at `changed`.
    ///
    /// # Errors
    /// The scheduler can't be started.
    pub async fn run(
        schedule: Live<Self>,
        clock: Clock,
        ring: impl Fn(),
        changed: std::sync::Arc<tokio::sync::Notify>,
        stop: CancellationToken,
    ) -> Result<(), JobSchedulerError> {
        let mut scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        let (fired, mut firing) = mpsc::channel(1);
        while !stop.is_cancelled() {
            let job = match schedule.get().next_after(clock.now()) {
                Some(next) => Some(scheduler.add(ring_at(next, &clock, fired.clone())?).await?),
                None => None,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                // A job that has fired goes by itself; taken out before, the scheduler would log an error.
                Some(()) = firing.recv() => ring(),
                () = changed.notified() => {
                    if let Some(job) = job {
                        // It may have fired just now.
                        let _ = scheduler.remove(&job).await;
                    }
                }
            }
        }
        scheduler.shutdown().await
    }
}

fn ring_at(next: DateTime, clock: &Clock, fired: mpsc::Sender<()>) -> Result<Job, JobSchedulerError> {
    let wait = u64::try_from(next.timestamp_millis() - clock.now().timestamp_millis()).unwrap_or(0);
    let at = Instant::now() + Duration::from_millis(wait);
    Job::new_one_shot_at_instant(at, move |_, _| {
        let _ = fired.try_send(());
    })
}

#[cfg(test)]
mod tests;
