//! The feeder: fetches from the outbox what did not fit in the window, what is to be tried again, and what others left.

use std::collections::HashMap;
use std::time::Duration;

use bson::DateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::window::{Place, Window};
use crate::model::{Clock, EndpointKey};
use crate::outbox::{Claimed, LostClaim, Outbox};
use crate::store::{Result, Stopped, Store};

/// Fetches deliveries into the window.
pub struct Feeder {
    outbox: Outbox,
    store: Store,
    window: Window,
    clock: Clock,
    poll: Duration,
}

/// What one round did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Deliveries fetched.
    pub claimed: usize,
    /// When the next one is due, as far as it is known.
    pub next_due: Option<DateTime>,
}

impl Feeder {
    /// A feeder that looks at least every `poll`, and at once when the window's bell rings.
    pub fn new(outbox: Outbox, store: Store, window: Window, clock: Clock, poll: Duration) -> Self {
        Self {
            outbox,
            store,
            window,
            clock,
            poll,
        }
    }

    /// Feeds until `stop`. `beat` is called after every round, failed or not.
    pub async fn run(self, stop: CancellationToken, beat: impl Fn()) {
        while !stop.is_cancelled() {
            // Registered before looking: a bell that rings meanwhile is not missed.
            let bell = self.window.bell().notified();
            let began = Instant::now();
            let fed = self.round().await;
            beat();
            let Ok(fed) = fed else { continue };
            // A round's queries take at most a third of the database's time.
            let rest = began.elapsed() * 2;
            let pause = self.until(fed.next_due).min(self.poll).max(rest);
            tokio::select! {
                () = stop.cancelled() => break,
                () = async { bell.await; tokio::time::sleep(rest).await } => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn round(&self) -> std::result::Result<Fed, Stopped> {
        let now = self.clock.now();
        let waiting = self
            .store
            .persist("look for pending deliveries", || self.outbox.waiting())
            .await?;
        let (due, later): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .filter(|(endpoint, _)| self.window.owns(endpoint))
            .partition(|(_, at)| *at <= now);
        self.mark(&due);
        let claimed = self.feed(due, now).await?;
        Ok(Fed {
            claimed,
            next_due: later.into_iter().map(|(_, at)| at).min(),
        })
    }

    /// Marks the lanes that have deliveries due, and clears the others.
    fn mark(&self, due: &[(EndpointKey, DateTime)]) {
        let waiting: std::collections::HashSet<_> = due.iter().map(|(endpoint, _)| endpoint).collect();
        for endpoint in self
            .window
            .waiting()
            .iter()
            .filter(|endpoint| !waiting.contains(endpoint))
        {
            self.window.set_waiting(endpoint, false);
        }
        due.iter()
            .for_each(|(endpoint, _)| self.window.set_waiting(endpoint, true));
    }

    /// Claims for each lane its share of the window, the longest waiting lane first.
    async fn feed(&self, mut due: Vec<(EndpointKey, DateTime)>, now: DateTime) -> std::result::Result<usize, Stopped> {
        due.sort_by_key(|(_, at)| *at);
        let share = (self.window.fill().capacity / (due.len() + 1)).max(1);
        let mut places: HashMap<EndpointKey, Vec<Place>> = HashMap::new();
        let mut wants = Vec::new();
        for (endpoint, _) in due {
            let granted = self.window.take(&endpoint, share);
            if !granted.is_empty() {
                wants.push((endpoint.clone(), granted.len()));
                places.insert(endpoint, granted);
            }
        }
        let claimed = self.claim(&wants, now).await?;
        let count = claimed.len();
        for delivery in claimed {
            if let Some(place) = places.get_mut(&delivery.endpoint).and_then(Vec::pop) {
                place.put(delivery);
            }
        }
        Ok(count)
    }

    async fn claim(&self, wants: &[(EndpointKey, usize)], now: DateTime) -> std::result::Result<Vec<Claimed>, Stopped> {
        match self.outbox.claim(wants, now).await {
            Ok(claimed) => Ok(claimed),
            Err(lost) => {
                self.store.persist("free a lost claim", || self.free(&lost)).await?;
                Ok(Vec::new())
            }
        }
    }

    async fn free(&self, lost: &LostClaim) -> Result<()> {
        self.outbox.free_claim(lost).await
    }

    fn until(&self, due: Option<DateTime>) -> Duration {
        let Some(due) = due else { return self.poll };
        let millis = due.timestamp_millis() - self.clock.now().timestamp_millis();
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}
