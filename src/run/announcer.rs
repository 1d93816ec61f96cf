//! Passes on what was appended: to this instance's fetcher, or to the instances that have the endpoints.

use std::time::Instant;

use bson::RawDocumentBuf;

use crate::cluster::{Cluster, WakeUps};
use crate::dispatch::Waiting;
use crate::outbox::{Class, Head, Listener};

/// Tells the fetcher of this instance what waits, and the other instances by notes.
pub(super) struct Announcer {
    pub(super) waiting: Waiting,
    pub(super) wake_ups: WakeUps,
    pub(super) cluster: Cluster,
}

impl Announcer {
    /// Notes name endpoints for live deliveries only; for those of other classes they ask for a look at all queues.
    fn tell_others(&self, heads: impl Iterator<Item = Head>) {
        let (live, rest): (Vec<_>, Vec<_>) = heads.partition(|head| head.class == Class::Live);
        if !live.is_empty() {
            self.wake_ups.note(live.into_iter().map(|head| head.endpoint));
        }
        if !rest.is_empty() {
            self.wake_ups.note_look();
        }
    }
}

impl Listener for Announcer {
    fn appended(&self, batches: Vec<(Head, RawDocumentBuf)>, began: Instant) {
        let (mine, others): (Vec<_>, Vec<_>) = batches
            .into_iter()
            .partition(|(head, _)| self.cluster.is_assigned(&head.endpoint));
        self.tell_others(others.into_iter().map(|(head, _)| head));
        self.waiting.appended(mine, began);
    }
}
