//! Doing together what is done now and then.
//!
//! A command that finds nothing costs this process and MongoDB most by waking up for it, each on cold caches. Measured on an idle daemon that
//! sends 3.4 commands per second, in two pairs: 0.3 % of a core for both if they come together, 0.5 and 0.75 % if each comes by itself.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A little less than a second: what is looked for at each tick is found within one.
const TICK: Duration = Duration::from_millis(950);

static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Sleeps for that long, or up to a tick less: until the last tick by then. Less than a tick is slept as it is.
pub async fn sleep_about(time: Duration) {
    sleep_until(in_about(time)).await;
}

/// The instant of the last tick by then.
pub fn in_about(time: Duration) -> Instant {
    let now = Instant::now();
    let Some(since) = now.checked_duration_since(*FIRST).filter(|_| time >= TICK) else {
        return now + time;
    };
    let ticks = (since + time).as_millis() / TICK.as_millis();
    *FIRST + TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sleeps_that_begin_at_different_instants_end_together() {
        let seconds = Duration::from_secs_f64;
        tokio::time::advance(seconds(100.0)).await;
        sleep_about(seconds(1.0)).await;
        let tick = Instant::now();
        let mut ends = Vec::new();
        for (begun, time) in [(0.0, 4.0), (0.3, 3.6), (0.6, 4.0)] {
            tokio::time::sleep_until(tick + seconds(begun)).await;
            let end = in_about(seconds(time));
            let slept = end - Instant::now();
            assert!(
                slept <= seconds(time) && slept + TICK > seconds(time),
                "{slept:?} for {time} s"
            );
            ends.push(end);
        }
        assert_eq!(ends, [ends[0]; 3]);
        assert_eq!(in_about(seconds(0.5)), Instant::now() + seconds(0.5), "as it is");
    }
}
