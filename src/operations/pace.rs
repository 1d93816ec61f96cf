//! How fast an operation goes: the size of its steps, and the rest after each.

use std::time::Duration;

use super::running::Running;

/// Documents or certificates per step.
pub(super) const MOST_PER_STEP: usize = 100;

impl Running {
    /// Documents or certificates per step: what goes out in a second, so that a slow operation goes on evenly.
    pub(super) fn step_size(&self) -> usize {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut to 1 to 100")]
        let per_second = self.request.rate.map_or(MOST_PER_STEP, |rate| rate as usize);
        per_second.clamp(1, MOST_PER_STEP)
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
