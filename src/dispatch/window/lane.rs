//! What the window holds for one endpoint.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Job;

/// A lane that holds places and freed none for so long is stuck.
const STUCK: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Lane {
    /// Places taken: reserved, queued, in flight, or waiting for their result to be written.
    pub(super) held: usize,
    pub(super) queue: VecDeque<Job>,
    pub(super) workers: usize,
    /// Older deliveries may wait in the outbox: new ones must queue up behind them.
    pub(super) waiting: bool,
    /// Some came to wait there since the feeder began to look.
    pub(super) news: bool,
    /// The feeder is to refill it when it holds no more than this.
    pub(super) low: Option<usize>,
    /// When it freed a place, or took its first.
    moved: Option<Instant>,
    /// Whether it has ever freed one.
    proven: bool,
}

impl Lane {
    pub(super) fn take_place(&mut self) {
        self.held += 1;
        if self.held == 1 {
            self.moved = Some(Instant::now());
        }
    }

    /// Returns whether the feeder is to refill it.
    pub(super) fn free_place(&mut self) -> bool {
        self.held -= 1;
        self.moved = Some(Instant::now());
        self.proven = true;
        self.waiting && self.low.is_none_or(|low| self.held <= low)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held == 0 && self.workers == 0 && !self.waiting
    }

    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.held > 0 && self.has_rested(now)
    }

    /// Whether it freed a place lately: one that does not may hang, and is not to hold many.
    pub(super) fn is_moving(&self, now: Instant) -> bool {
        self.proven && !self.has_rested(now)
    }

    fn has_rested(&self, now: Instant) -> bool {
        self.moved.is_some_and(|moved| now - moved >= STUCK)
    }
}
