//! Asks for a scan at each instant of the schedule: once, and not before it.
//!
//! `tokio-cron-scheduler` keeps a fixed UTC offset for zoned jobs (its issue 107), an hour off after a daylight-saving
//! change; it cuts instants to whole seconds, and goes by this machine's clock. So the instants come from [`Schedule`], a job is
//! set for shortly before each, and the rest is waited for on the database's clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::DateTime;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use super::Schedule;
use crate::model::{Clock, Reloadable, sleep_about, time_until};

/// A job is set for this long before its instant: the scheduler looks every 500 ms, at whole seconds.
const LEAD: Duration = Duration::from_secs(2);

/// How often the clocks are compared, to see whether somebody has set one of them, and from which step on it counts.
const LOOK: Duration = Duration::from_secs(1);
const STEP_MS: u64 = 1_000;

/// A clock that is set back by more than this is believed, and instants that it shows again count again.
const SMALL_CORRECTION_MS: i64 = 60_000;

/// Asks for the schedule's scans.
pub struct Timer {
    /// Replaced by a reload, which notifies `changed`.
    pub schedule: Reloadable<Schedule>,
    /// Notified when the schedule was replaced.
    pub changed: Arc<Notify>,
    /// The database's clock.
    pub clock: Clock,
}

impl Timer {
    /// Calls `ask` at each instant of the schedule until `stop`.
    ///
    /// # Errors
    /// The scheduler can't be started.
    pub async fn run(self, ask: impl Fn(), stop: CancellationToken) -> Result<(), JobSchedulerError> {
        let mut scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        let mut last = None;
        while !stop.is_cancelled() {
            let ahead_ms = self.clock.ahead_of_local_ms();
            let next = self.schedule.get().next_after(after(last, self.clock.now()));
            let job = self.set_job(&scheduler, next).await?;
            tokio::select! {
                () = stop.cancelled() => break,
                // A job that has fired removes itself; if it were removed before, the scheduler would log an error.
                reached = self.reach(next, job.as_ref().map(|(_, fired)| &**fired)) => {
                    ask();
                    last = Some(reached);
                    continue;
                }
                () = self.changed.notified() => {}
                () = self.clock_was_set(ahead_ms) => {
                    if let Some(passed) = next.filter(|next| self.until(*next).is_zero()) {
                        ask();
                        last = Some(passed);
                    }
                }
            }
            if let Some((job, _)) = job {
                // It may have fired just now.
                let _ = scheduler.remove(&job.guid()).await;
            }
        }
        scheduler.shutdown().await
    }

    /// A job for shortly before `next`, and what it notifies. None where that is soon.
    async fn set_job(
        &self,
        scheduler: &JobScheduler,
        next: Option<DateTime>,
    ) -> Result<Option<(Job, Arc<Notify>)>, JobSchedulerError> {
        let Some(wait) = next.and_then(|next| self.until(next).checked_sub(LEAD)) else {
            return Ok(None);
        };
        let fired = Arc::new(Notify::new());
        let firing = Arc::clone(&fired);
        let job = Job::new_one_shot_at_instant(Instant::now() + wait, move |_, _| firing.notify_one())?;
        scheduler.add(job.clone()).await?;
        Ok(Some((job, fired)))
    }

    /// Waits until the clock shows `next`, for ever if there is none.
    async fn reach(&self, next: Option<DateTime>, fired: Option<&Notify>) -> DateTime {
        let Some(next) = next else {
            return std::future::pending().await;
        };
        if let Some(fired) = fired {
            fired.notified().await;
        }
        loop {
            match self.until(next) {
                Duration::ZERO => return next,
                wait => tokio::time::sleep(wait).await,
            }
        }
    }

    fn until(&self, next: DateTime) -> Duration {
        time_until(next, self.clock.now())
    }

    /// Waits until the clock is no longer ahead of this machine's by `ahead_ms`, because one of them was set.
    async fn clock_was_set(&self, ahead_ms: i64) {
        while self.clock.ahead_of_local_ms().abs_diff(ahead_ms) <= STEP_MS {
            sleep_about(LOOK).await;
        }
    }
}

/// From when on the next instant is computed: after the last one, although a clock that was corrected a little shows less.
fn after(last: Option<DateTime>, now: DateTime) -> DateTime {
    last.filter(|last| (0..SMALL_CORRECTION_MS).contains(&(last.timestamp_millis() - now.timestamp_millis())))
        .unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::timeout;

    use super::*;

    fn schedule(cron: &str) -> Reloadable<Schedule> {
        let parser = croner::parser::CronParser::builder();
        let parser = parser.seconds(croner::parser::Seconds::Required).build();
        Reloadable::new(Schedule {
            cron: parser.parse(cron).unwrap(),
            zone: chrono_tz::UTC,
        })
    }

    /// The instants at which scans are asked for.
    struct Asked {
        at: Arc<Mutex<Vec<DateTime>>>,
        more: Arc<Notify>,
        stop: CancellationToken,
    }

    impl Asked {
        fn new(cron: &str, clock: &Clock) -> Self {
            let (at, more, stop) = (
                Arc::<Mutex<Vec<_>>>::default(),
                Arc::new(Notify::new()),
                CancellationToken::new(),
            );
            let timer = Timer {
                schedule: schedule(cron),
                changed: Arc::default(),
                clock: clock.clone(),
            };
            let (noted, notify, clock) = (Arc::clone(&at), Arc::clone(&more), clock.clone());
            let ask = move || {
                noted.lock().push(clock.now());
                notify.notify_one();
            };
            tokio::spawn(timer.run(ask, stop.clone()));
            Self { at, more, stop }
        }

        async fn times(&self, n: usize) -> Vec<DateTime> {
            while self.at.lock().len() < n {
                self.more.notified().await;
            }
            self.at.lock().clone()
        }
    }

    impl Drop for Asked {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test]
    async fn a_scan_is_asked_for_once_at_each_instant_and_not_before_it() {
        let ahead = [0, 60, 500, 960].map(|ms| Clock::ahead_of_local(Duration::from_millis(ms)));
        let cases = [("* * * * * *", 1000), ("*/2 * * * * *", 2000)].into_iter();
        let asked: Vec<_> = cases
            .flat_map(|(cron, every)| ahead.iter().map(move |clock| (cron, every, Asked::new(cron, clock))))
            .collect();
        for (cron, every, asked) in asked {
            let times = asked.times(3).await;
            for time in &times {
                assert!(time.timestamp_millis() % every < 400, "{cron} at {times:?}");
            }
            for pair in times.windows(2) {
                let apart = pair[1].timestamp_millis() / every - pair[0].timestamp_millis() / every;
                assert_eq!(apart, 1, "{cron} at {times:?}");
            }
        }
    }

    /// Sets the clock so that it shows `ms` from now.
    fn set(clock: &Clock, ms: i64) {
        let shown = DateTime::from_millis(clock.now().timestamp_millis() + ms);
        clock.correct(Clock::sending(), shown);
    }

    /// A schedule that fires `after` seconds from now.
    fn fires_after(clock: &Clock, after: i64) -> String {
        let at = chrono::DateTime::from_timestamp_millis(clock.now().timestamp_millis() + after * 1000).unwrap();
        at.format("%S %M %H * * *").to_string()
    }

    #[tokio::test]
    async fn a_clock_that_is_set_brings_the_next_instant_nearer_and_farther() {
        let clocks = [0; 4].map(|_| Clock::default());
        // When it fires, in seconds from now, and by how many the clock is set.
        let nearer = [
            (&clocks[0], 60, 58),
            (&clocks[1], 3_600, 3_598),
            (&clocks[2], 30, 7_200),
        ];
        let farther = [
            (&clocks[3], 2, -3_600),
            (&clocks[3], 4, -3_600),
            (&clocks[3], 60, -3_600),
        ];
        let begin = |(clock, after, _): (&Clock, i64, i64)| Asked::new(&fires_after(clock, after), clock);
        let (asked, waiting) = (nearer.map(begin), farther.map(begin));
        tokio::task::yield_now().await;
        for (clock, _, seconds) in nearer.into_iter().chain([farther[0]]) {
            set(clock, seconds * 1000);
        }
        for (n, asked) in asked.iter().enumerate() {
            let times = timeout(Duration::from_secs(5), asked.times(1)).await;
            assert!(times.is_ok(), "case {n}");
        }
        // What ends this wait is a scan that comes too soon.
        let [first, second, third] = &waiting;
        let early = async {
            tokio::select! { _ = first.times(1) => {}, _ = second.times(1) => {}, _ = third.times(1) => {} }
        };
        assert!(timeout(Duration::from_secs(3), early).await.is_err());
    }

    #[test]
    fn an_instant_that_a_small_correction_shows_again_is_over() {
        let at = DateTime::from_millis;
        let table = [
            ("none yet", None, 5_000, 5_000),
            ("time went on", Some(5_000), 5_010, 5_010),
            ("a small step back", Some(5_000), 4_600, 5_000),
            ("an hour back", Some(3_605_000), 5_000, 5_000),
        ];
        for (what, last, now, expected) in table {
            assert_eq!(after(last.map(at), at(now)), at(expected), "{what}");
        }
    }
}
