//! What is in memory of one endpoint, and of one organization.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::Partial;
use super::bytes::Bytes;
use super::unsent::Unsent;
use crate::dispatch::pace::ConfiguredPace;
use crate::model::EndpointKey;

/// One endpoint's part of the queue.
#[derive(Debug, Default)]
pub(super) struct EndpointQueue {
    pub(super) unsent: Unsent,
    pub(super) in_flight: usize,
    /// What its configuration said when it was last read.
    pub(super) configured: ConfiguredPace,
    /// Deliveries with a result that is not recorded yet.
    pub(super) unrecorded: usize,
    /// Whether it is in its organization's turn, or waits for the instant at which it may be.
    pub(super) in_turn: bool,
    /// When a request last ended.
    pub(super) last_progress: Option<Instant>,
    /// It wants to be refilled when it has this many deliveries queued or in flight, but for queued ones of the class `background`.
    pub(super) low: usize,
    /// Whether it counts as a contender: it is known to answer, and something of it is queued or in flight.
    pub(super) contends: bool,
    /// Its slots that count as taken by an endpoint that is not known to answer.
    pub(super) counted_unproven: usize,
    /// Bytes of its small payloads in memory, and how many of them count as of an endpoint that is not known to answer.
    pub(super) bytes: Bytes,
    /// Its batches in memory.
    pub(super) batches: HashSet<Arc<str>>,
    /// Batches whose results can't be recorded, and until when they are left alone.
    pub(super) excluded: HashMap<Arc<str>, Instant>,
    pub(super) partial: Option<Partial>,
}

impl EndpointQueue {
    /// Deliveries that are queued or in flight.
    pub(super) fn active(&self) -> usize {
        self.unsent.len() + self.in_flight
    }

    /// The same without queued ones of the class `background`.
    pub(super) fn active_before_background(&self) -> usize {
        self.active() - self.unsent.background()
    }

    /// Whether it may be forgotten. While it is in a turn it may not: if it came back, it would have two.
    pub(super) fn is_idle(&self) -> bool {
        self.active() + self.unrecorded == 0 && self.excluded.is_empty() && !self.in_turn
    }
}

/// One organization's part of the queue.
#[derive(Debug, Default)]
pub(super) struct Organization {
    /// Its endpoints that have something to send and a request to spare, in turn.
    pub(super) turn: VecDeque<EndpointKey>,
    /// Whether it is in the turn of organizations.
    pub(super) in_turn: bool,
    pub(super) in_flight: usize,
    /// Slots taken.
    pub(super) taken: usize,
    /// Slots of deliveries that are queued or in flight, of endpoints that are not known to answer; `taken` counts them too.
    pub(super) unproven: usize,
    pub(super) bytes: Bytes,
}

impl Organization {
    /// As [`EndpointQueue::is_idle`].
    pub(super) fn is_idle(&self) -> bool {
        self.taken == 0 && self.turn.is_empty() && !self.in_turn
    }
}
