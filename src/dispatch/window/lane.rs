//! What the window holds for one endpoint.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Job;

/// A lane that is stuck has requests in flight and none of them ended for so long.
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
    /// When a worker last came for work.
    moved: Option<Instant>,
    /// Whether a delivery ever came to its end.
    proven: bool,
}

impl Lane {
    /// A worker comes for work: at its start, and when its last request has ended.
    pub(super) fn come(&mut self) {
        self.moved = Some(Instant::now());
    }

    /// Returns whether the feeder is to refill it.
    pub(super) fn free_place(&mut self) -> bool {
        self.held -= 1;
        self.proven = true;
        self.waiting && self.low.is_none_or(|low| self.held <= low)
    }

    /// Whether it has used up what it got and more waits in the outbox: the feeder is behind.
    pub(super) fn is_starving(&self) -> bool {
        self.waiting && self.queue.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held == 0 && self.workers == 0 && !self.waiting
    }

    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.workers > 0 && self.moved.is_some_and(|moved| now - moved >= STUCK)
    }

    /// Whether its deliveries come to an end: one of which that is not known may hang, and is not to hold many places.
    pub(super) fn is_moving(&self, now: Instant) -> bool {
        self.proven && !self.is_stuck(now)
    }
}
