//! Documents that can't be events: one WARN each, and a count. Also a count of events that nobody can have asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use crate::model::EventType;
use crate::outbox::Rejected;
use crate::platform::Unfit;

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub struct Rejections(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    completed: AtomicU64,
    expired: AtomicU64,
    unconfigured: AtomicU64,
}

impl Rejections {
    /// How many documents could not be such events.
    pub fn count(&self, event_type: EventType) -> &AtomicU64 {
        match event_type {
            EventType::CertificateCompleted => &self.0.completed,
            EventType::CertificateExpired => &self.0.expired,
        }
    }

    /// How many events are of organizations that have no configuration document: nothing is sent.
    pub fn unconfigured(&self) -> &AtomicU64 {
        &self.0.unconfigured
    }

    pub(super) fn count_unconfigured(&self, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.0.unconfigured.fetch_add(events, Ordering::Relaxed);
    }

    /// Counts certificates that can't be events, with one WARN each.
    pub(super) fn report(&self, rejected: &[Rejected]) {
        for Rejected {
            event_type,
            event_id,
            reason,
            ..
        } in rejected
        {
            self.count(*event_type).fetch_add(1, Ordering::Relaxed);
            warn!(%event_id, %reason, "a certificate can't be an event: recorded as rejected, nothing is sent");
        }
    }
}

/// What the outbox keeps of it.
pub(super) fn rejected_of(unfit: Unfit, event_type: EventType) -> Rejected {
    Rejected {
        event_type,
        certificate: unfit.certificate,
        event_id: unfit.event_id,
        reason: unfit.reason,
    }
}
