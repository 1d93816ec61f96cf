//! Locks on events, in this process: of one event no two transactions may append deliveries at the same time. Neither would see what the
//! other appends, and an endpoint would get the event twice.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{NewDelivery, Outbox};
use crate::model::EventId;

#[derive(Clone, Debug, Default)]
pub(super) struct EventLocks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    locked: Mutex<HashSet<EventId>>,
    unlocked: Notify,
}

/// Events that are locked, until this is dropped.
#[derive(Debug)]
#[must_use = "they are unlocked when this is dropped"]
pub struct LockedEvents {
    locks: EventLocks,
    events: Vec<EventId>,
}

impl Outbox {
    /// Locks the events of these deliveries, once nobody else has locked one of them. To be called before the first operation of the
    /// transaction that appends them, with which its snapshot begins, and kept until it has ended.
    pub async fn lock_events<'a>(&self, deliveries: impl Iterator<Item = &'a NewDelivery>) -> LockedEvents {
        let mut events: Vec<EventId> = deliveries.map(|delivery| delivery.message.event_id.clone()).collect();
        events.sort_unstable();
        events.dedup();
        self.event_locks.lock(events).await
    }
}

impl EventLocks {
    /// All of them at once: whoever waits for one has locked none.
    async fn lock(&self, events: Vec<EventId>) -> LockedEvents {
        loop {
            let unlocked = self.0.unlocked.notified();
            tokio::pin!(unlocked);
            unlocked.as_mut().enable();
            if self.try_lock(&events) {
                return LockedEvents {
                    locks: self.clone(),
                    events,
                };
            }
            unlocked.await;
        }
    }

    fn try_lock(&self, events: &[EventId]) -> bool {
        let mut locked = self.0.locked.lock();
        let is_free = events.iter().all(|event| !locked.contains(event));
        if is_free {
            locked.extend(events.iter().cloned());
        }
        is_free
    }
}

impl Drop for LockedEvents {
    fn drop(&mut self) {
        let mut locked = self.locks.0.locked.lock();
        for event in &self.events {
            locked.remove(event);
        }
        drop(locked);
        self.locks.0.unlocked.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn events(names: &str) -> Vec<EventId> {
        names
            .chars()
            .map(|name| EventId::from_stored(&name.to_string()))
            .collect()
    }

    #[tokio::test]
    async fn who_shares_an_event_waits_and_nobody_else_does() {
        for (held, wanted, waits) in [
            ("ab", "cd", false),
            ("ab", "bc", true),
            ("a", "a", true),
            ("", "ab", false),
            ("ab", "", false),
        ] {
            let locks = EventLocks::default();
            let first = locks.lock(events(held)).await;
            let mut second = Box::pin(locks.lock(events(wanted)));
            assert_eq!(second.as_mut().now_or_never().is_none(), waits, "{held} {wanted}");
            if waits {
                // What it waits for it has not locked.
                let other = locks.lock(events("c")).now_or_never();
                drop(other.unwrap_or_else(|| panic!("{held} {wanted}")));
                drop(first);
                drop(second.await);
            }
        }
    }
}
