//! What became of attempts since the start. Counting takes a few atomic additions: no lock, no allocation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::DateTime;

use super::histogram::Histogram;
use crate::model::{EndpointKey, EventType, MessageType, Outcome};
use crate::outbox::{Delivery, Next};

/// From the start of an attempt to the end of its response, in milliseconds; a timeout is at most 30 s.
const ATTEMPT: [u32; 12] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000];

/// From the event to the response that accepted it, in milliseconds; what is retried takes minutes, what was missed hours.
const END_TO_END: [u32; 14] = [
    50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 86_400_000,
];

/// What happened longer ago was imported, replayed or redriven: how long that took does not show how fast the daemon is.
const IMPORTED: Duration = Duration::from_secs(24 * 3600);

/// The counts of each kind of delivery.
#[derive(Debug)]
pub struct Counts([Kind; 4]);

/// A kind of delivery: its channel and its type of event.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) channel: &'static str,
    pub(super) event: &'static str,
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) gone: AtomicU64,
    pub(super) permanent: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) attempt: Histogram,
    pub(super) end_to_end: Histogram,
}

impl Counts {
    /// `delivery` was attempted with this outcome, which came at `now`; `next` is what becomes of it.
    pub fn count(&self, delivery: &Delivery, outcome: &Outcome, next: &Next, now: DateTime) {
        let kind = self.kind(&delivery.endpoint, delivery.message.event_type);
        match outcome {
            Outcome::Delivered { elapsed, .. } => {
                add(&kind.delivered);
                kind.attempt.observe(*elapsed);
                let age = age(delivery, now);
                if age <= IMPORTED {
                    kind.end_to_end.observe(age);
                }
            }
            Outcome::TransientFailure(_) => add(&kind.failed),
            Outcome::Gone(_) => add(&kind.gone),
            Outcome::PermanentFailure(_) => add(&kind.permanent),
            // Not attempted.
            Outcome::Cancelled { .. } | Outcome::NotSent | Outcome::ProxyUnavailable { .. } => {}
        }
        match next {
            // The first death counts.
            Next::Dead { .. } if !delivery.redriven => add(&kind.dead),
            Next::Cancelled { .. } => add(&kind.cancelled),
            _ => {}
        }
    }

    /// Deliveries that succeeded.
    pub fn delivered(&self) -> u64 {
        self.sum(|kind| &kind.delivered)
    }

    /// Attempts that failed, whatever became of the delivery.
    pub fn failed(&self) -> u64 {
        self.sum(|kind| &kind.failed) + self.sum(|kind| &kind.gone) + self.sum(|kind| &kind.permanent)
    }

    /// Deliveries that became dead letters.
    pub fn dead(&self) -> u64 {
        self.sum(|kind| &kind.dead)
    }

    /// Deliveries whose endpoint was deleted or disabled.
    pub fn cancelled(&self) -> u64 {
        self.sum(|kind| &kind.cancelled)
    }

    pub(super) fn kinds(&self) -> &[Kind] {
        &self.0
    }

    /// Counts deliveries of an endpoint that is off: they were cancelled in bulk.
    pub fn add_cancelled(&self, endpoint: &EndpointKey, deliveries: u64) {
        // Their types are not read, so all are counted as expiries.
        let kind = self.kind(endpoint, EventType::CertificateExpired.into());
        kind.cancelled.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// Counts deliveries that waited too long: they became dead letters in bulk.
    pub fn add_dead(&self, endpoint: &EndpointKey, deliveries: u64) {
        let kind = self.kind(endpoint, EventType::CertificateExpired.into());
        kind.dead.fetch_add(deliveries, Ordering::Relaxed);
    }

    fn kind(&self, endpoint: &EndpointKey, message_type: MessageType) -> &Kind {
        let [completed, expired, email, notice] = &self.0;
        match message_type {
            _ if endpoint.is_email() => email,
            MessageType::Event(EventType::CertificateCompleted) => completed,
            MessageType::Event(EventType::CertificateExpired) => expired,
            MessageType::Notice(_) => notice,
        }
    }

    fn sum(&self, count: impl Fn(&Kind) -> &AtomicU64) -> u64 {
        self.0.iter().map(|kind| count(kind).load(Ordering::Relaxed)).sum()
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self([
            Kind::new("webhook", EventType::CertificateCompleted.as_str()),
            Kind::new("webhook", EventType::CertificateExpired.as_str()),
            Kind::new("email", EventType::CertificateExpired.as_str()),
            Kind::new("notice", "endpoint"),
        ])
    }
}

impl Kind {
    fn new(channel: &'static str, event: &'static str) -> Self {
        Self {
            channel,
            event,
            delivered: AtomicU64::default(),
            failed: AtomicU64::default(),
            gone: AtomicU64::default(),
            permanent: AtomicU64::default(),
            dead: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            attempt: Histogram::new(&ATTEMPT),
            end_to_end: Histogram::new(&END_TO_END),
        }
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// How long ago the event happened: the certificate's `expires` or `creationDate`, whenever the daemon learned of it.
fn age(delivery: &Delivery, now: DateTime) -> Duration {
    let happened = delivery.message.event_id.instant().unwrap_or(now);
    let millis = now.timestamp_millis().saturating_sub(happened.timestamp_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointKey, EventId, Failure};
    use crate::outbox::document::testing::fetched;

    fn delivery(endpoint: EndpointKey, redriven: bool) -> Delivery {
        let mut batch = fetched(endpoint.as_str(), "a", 1);
        Delivery {
            redriven,
            ..batch.deliveries.remove(0)
        }
    }

    fn webhook(redriven: bool) -> Delivery {
        delivery(EndpointKey::from_stored("organization/endpoint"), redriven)
    }

    fn failure() -> Failure {
        Failure {
            status: Some(500),
            reason: "status 500".into(),
            elapsed: Duration::from_millis(3),
            ..Failure::default()
        }
    }

    const NOW: DateTime = DateTime::from_millis(5000);

    #[test]
    fn a_dead_letter_that_is_redriven_in_vain_counts_as_an_attempt_alone() {
        let counts = Counts::default();
        let dead = Next::Dead {
            verdict: "1 attempt failed".into(),
            failure: failure(),
            redrivable: true,
        };
        for redriven in [false, true] {
            counts.count(&webhook(redriven), &Outcome::TransientFailure(failure()), &dead, NOW);
        }
        assert_eq!((counts.failed(), counts.dead()), (2, 1));
    }

    #[test]
    fn what_was_imported_long_after_it_happened_does_not_count_as_slow() {
        let day = 86_400_000;
        let ages = [(1, 1), (day, 2), (day + 1, 2), (365 * day, 2), (2, 3)];
        let counts = Counts::default();
        let accepted = Outcome::Delivered {
            status: 200,
            elapsed: Duration::from_millis(3),
            connect: None,
        };
        for (n, (age, expected)) in (1..).zip(ages) {
            let mut old = webhook(false);
            old.message.event_id = EventId::from_stored("certificate_expired_a_1000");
            let now = DateTime::from_millis(1000 + age);
            counts.count(&old, &accepted, &Next::Delivered { status: 200 }, now);
            let kind = counts.kind(&old.endpoint, old.message.event_type);
            assert_eq!(
                (kind.attempt.count(), kind.end_to_end.count()),
                (n, expected),
                "{age} ms"
            );
        }
    }

    #[test]
    fn e_mails_are_counted_apart() {
        let counts = Counts::default();
        let accepted = Outcome::Delivered {
            status: 250,
            elapsed: Duration::from_millis(3),
            connect: None,
        };
        let email = delivery(EndpointKey::email(), false);
        counts.count(&email, &accepted, &Next::Delivered { status: 250 }, NOW);
        let delivered: Vec<_> = counts
            .kinds()
            .iter()
            .map(|kind| kind.delivered.load(Ordering::Relaxed))
            .collect();
        assert_eq!(delivered, [0, 0, 1, 0]);
    }
}
