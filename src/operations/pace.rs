//! How fast an operation goes: the size of its steps, and the rest after each.

use std::time::Duration;

use super::running::Running;

/// Documents or certificates per step.
pub(super) const MOST_PER_STEP: usize = 100;

/// A backfill appends this many at a time, more only where its rate asks for it: what it appends is sent in between what happens meanwhile.
const BACKFILL_STEP: usize = 25;

impl Running {
    /// Documents or certificates per step: what goes out in a second, so that a slow operation goes on evenly.
    pub(super) fn step_size(&self) -> usize {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut to 1 to 100")]
        let per_second = self.request.rate.map_or(MOST_PER_STEP, |rate| rate as usize);
        per_second.clamp(1, MOST_PER_STEP)
    }

    /// Certificates per step of a backfill: at 100 and 1,000 per second 25, at 2,000 50, from 4,000 on 100, at 10 per second 10.
    pub(super) fn backfill_step_size(&self) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "cut to 25 to 100"
        )]
        let often = self.request.rate.map_or(BACKFILL_STEP, |rate| (rate / 40.0) as usize);
        often.clamp(BACKFILL_STEP, MOST_PER_STEP).min(self.step_size())
    }

    /// How long to rest after a step that took `took`: as long as that, so that others get their turn, or longer if the rate asks for it.
    /// At 10 deliveries per second a step of 20 that took half a second is followed by a rest of one and a half.
    pub(super) fn pause(&self, deliveries: u64, took: Duration) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "at most 6,400")]
        let paced = self
            .request
            .rate
            .map(|rate| Duration::from_secs_f64(deliveries as f64 / rate));
        paced.map_or(took, |paced| paced.saturating_sub(took).max(took))
    }
}
