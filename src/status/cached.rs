//! What MongoDB says, where many may want it and nobody waits long for it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::store::Result;

/// MongoDB is asked no more often than this.
const EVERY: Duration = Duration::from_secs(5);

/// And no more often than that asking takes one part in this many of the time.
const SHARE: u32 = 20;

/// What is older says nothing of the present, unless it is asked for that rarely.
const KEEP: Duration = Duration::from_secs(120);

type Ask<T> = dyn Fn() -> BoxFuture<'static, Result<T>> + Send + Sync;

/// Asks when somebody wants to know, in a task of its own: whoever wants to know waits a little, and then takes what was said last.
pub struct Cached<T> {
    ask: Box<Ask<T>>,
    shared: Arc<Shared<T>>,
    asking: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Shared<T> {
    last: Mutex<Last<T>>,
    heard: Notify,
}

struct Last<T> {
    /// With the instant until which it holds.
    value: Option<(Instant, Arc<T>)>,
    /// When it may be asked again.
    next: Instant,
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// What `ask` returns.
    pub fn new(ask: impl Fn() -> BoxFuture<'static, Result<T>> + Send + Sync + 'static) -> Self {
        let last = Last {
            value: None,
            next: Instant::now(),
        };
        Self {
            ask: Box::new(ask),
            shared: Arc::new(Shared {
                last: Mutex::new(last),
                heard: Notify::new(),
            }),
            asking: Mutex::default(),
        }
    }

    /// What MongoDB says: anew if it does within `patience`, else what it said last, unless that is too old.
    pub async fn get(&self, patience: Duration) -> Option<Arc<T>> {
        let mut heard = pin!(self.shared.heard.notified());
        heard.as_mut().enable();
        if self.is_asking() {
            let _ = timeout(patience, heard).await;
        }
        let last = self.shared.last.lock();
        let (until, value) = last.value.as_ref()?;
        (Instant::now() < *until).then(|| Arc::clone(value))
    }

    /// Whether MongoDB is being asked, on this one's or another's behalf.
    fn is_asking(&self) -> bool {
        let mut asking = self.asking.lock();
        if asking.as_ref().is_some_and(|task| !task.is_finished()) {
            return true;
        }
        if self.shared.last.lock().next > Instant::now() {
            return false;
        }
        let (question, shared) = ((self.ask)(), Arc::clone(&self.shared));
        *asking = Some(AbortOnDropHandle::new(tokio::spawn(shared.hear(question))));
        true
    }
}

impl<T> Shared<T> {
    async fn hear(self: Arc<Self>, question: BoxFuture<'static, Result<T>>) {
        let began = Instant::now();
        // An outage is logged by the loops that can't go on without MongoDB.
        let value = question.await.ok();
        let mut last = self.last.lock();
        let pause = EVERY.max(began.elapsed() * SHARE);
        last.next = Instant::now() + pause;
        if let Some(value) = value {
            last.value = Some((Instant::now() + KEEP.max(pause * 2), Arc::new(value)));
        }
        drop(last);
        self.heard.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::sleep;

    const PATIENCE: Duration = Duration::from_millis(300);

    /// Says which time it is asked, after `takes`; from the `broken`th time on it fails.
    fn counting(takes: Duration, broken: u32) -> Cached<u32> {
        let asked = AtomicU32::new(0);
        Cached::new(move || {
            let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
            Box::pin(async move {
                sleep(takes).await;
                let error = || crate::store::Error::refused("unavailable");
                (number < broken).then_some(number).ok_or_else(error)
            })
        })
    }

    async fn get(cached: &Cached<u32>) -> Option<u32> {
        cached.get(PATIENCE).await.map(|number| *number)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_at_most_every_five_seconds_however_many_want_it() {
        let cached = counting(Duration::from_millis(10), 100);
        let all = futures_util::future::join_all((0..50).map(|_| get(&cached))).await;
        assert!(all.iter().all(|number| *number == Some(1)));
        sleep(EVERY - Duration::from_millis(20)).await;
        assert_eq!(get(&cached).await, Some(1));
        sleep(Duration::from_millis(30)).await;
        assert_eq!(get(&cached).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_mongodb_holds_nobody_up_and_is_asked_rarely() {
        let cached = counting(Duration::from_secs(3), 100);
        let began = Instant::now();
        assert_eq!(get(&cached).await, None);
        assert_eq!(began.elapsed(), PATIENCE);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(get(&cached).await, Some(1));
        sleep(Duration::from_secs(56)).await;
        assert_eq!(get(&cached).await, Some(1), "within twenty times three seconds");
        sleep(Duration::from_secs(4)).await;
        assert_eq!(get(&cached).await, Some(1), "asked again, nothing heard yet");
        sleep(Duration::from_secs(3)).await;
        assert_eq!(get(&cached).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn while_mongodb_is_unavailable_what_it_said_last_holds_until_it_is_too_old() {
        let cached = counting(Duration::from_millis(10), 2);
        assert_eq!(get(&cached).await, Some(1));
        sleep(EVERY * 2).await;
        assert_eq!(get(&cached).await, Some(1));
        sleep(KEEP).await;
        assert_eq!(get(&cached).await, None);
    }
}
