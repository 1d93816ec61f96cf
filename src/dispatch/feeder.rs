//! The feeder: fetches from the outbox what did not fit in the window, what is to be tried again, and what others left.

use std::collections::HashMap;
use std::time::Duration;

use bson::DateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::window::{Place, Window};
use crate::model::{Clock, EndpointKey};
use crate::outbox::{Claimed, LostClaim, Outbox};
use crate::store::{Stopped, Store};

/// A claim whose answer was lost may still take effect: its command may lie in the buffers of a connection that was given up,
/// and TCP tries to deliver it for up to 924.6 s (Linux, `tcp_retries2`).
const STRAY: Duration = Duration::from_secs(1200);

/// Fetches deliveries into the window.
pub struct Feeder {
    outbox: Outbox,
    store: Store,
    window: Window,
    clock: Clock,
    poll: Duration,
    lost: Vec<(Instant, LostClaim)>,
}

/// What one round did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Deliveries fetched.
    pub claimed: usize,
    /// How long it took to see which lanes have deliveries due.
    pub looked: Duration,
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
            lost: Vec::new(),
        }
    }

    /// Feeds until `stop`. `beat` is called after every round, failed or not.
    pub async fn run(mut self, stop: CancellationToken, beat: impl Fn()) {
        let window = self.window.clone();
        while !stop.is_cancelled() {
            // Registered before looking: a bell that rings meanwhile is not missed.
            let bell = window.bell().notified();
            let fed = self.round().await;
            beat();
            let Ok(fed) = fed else { continue };
            // Looking takes at most a third of the database's time. What is fetched is no reason to rest: it has to be.
            let rest = fed.looked * 2;
            let pause = self.until(fed.next_due).min(self.poll).max(rest);
            tokio::select! {
                () = stop.cancelled() => break,
                () = async { bell.await; tokio::time::sleep(rest).await } => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn round(&mut self) -> std::result::Result<Fed, Stopped> {
        self.free_lost().await?;
        let now = self.clock.now();
        self.window.begin_look();
        // Of the try that succeeded: after an outage there is nothing to rest from.
        let look = || async {
            let began = Instant::now();
            Ok((self.outbox.waiting().await?, began.elapsed()))
        };
        let (waiting, looked) = self.store.persist("look for pending deliveries", look).await?;
        let (due, later): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .filter(|(endpoint, _)| self.window.owns(endpoint))
            .partition(|(_, at)| *at <= now);
        self.window.end_look(due.iter().map(|(endpoint, _)| endpoint));
        Ok(Fed {
            claimed: self.feed(due, now).await?,
            looked,
            next_due: later.into_iter().map(|(_, at)| at).min(),
        })
    }

    /// Claims for each lane its share of the window, the longest waiting lane first.
    async fn feed(
        &mut self,
        mut due: Vec<(EndpointKey, DateTime)>,
        now: DateTime,
    ) -> std::result::Result<usize, Stopped> {
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

    async fn claim(
        &mut self,
        wants: &[(EndpointKey, usize)],
        now: DateTime,
    ) -> std::result::Result<Vec<Claimed>, Stopped> {
        match self.outbox.claim(wants, now).await {
            Ok(claimed) => Ok(claimed),
            Err(lost) => {
                self.lost.push((Instant::now(), lost));
                self.free_lost().await?;
                Ok(Vec::new())
            }
        }
    }

    /// Frees them again and again: once is not enough where the claim takes effect after it was freed.
    async fn free_lost(&mut self) -> std::result::Result<(), Stopped> {
        self.lost.retain(|(since, _)| since.elapsed() < STRAY);
        if self.lost.is_empty() {
            return Ok(());
        }
        let free = || self.outbox.free_claims(self.lost.iter().map(|(_, lost)| lost));
        self.store.persist("free a lost claim", free).await
    }

    fn until(&self, due: Option<DateTime>) -> Duration {
        let Some(due) = due else { return self.poll };
        let millis = due.timestamp_millis() - self.clock.now().timestamp_millis();
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}
