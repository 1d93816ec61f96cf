//! What MongoDB says, for many that ask and none that waits long.

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

/// And at most 1 / 20 of the time is spent on asking. Example: after a reply that took 3 s it is asked again after 60 s.
const SHARE: u32 = 20;

/// How long a reply is shown, or twice the pause if that is longer.
const KEEP: Duration = Duration::from_secs(120);

type Ask<T> = dyn Fn() -> BoxFuture<'static, Result<T>> + Send + Sync;

/// Asks when [`Cached::get`] is called, in a task of its own: the caller waits a little, and then gets the last reply.
pub struct Cached<T> {
    ask: Box<Ask<T>>,
    shared: Arc<Shared<T>>,
    asking: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Shared<T> {
    last: Mutex<Last<T>>,
    heard: Notify,
}

struct Reply<T> {
    value: Arc<T>,
    valid_until: Instant,
}

struct Last<T> {
    reply: Option<Reply<T>>,
    /// When it may be asked again.
    next: Instant,
}

impl<T: Send + Sync + 'static> Cached<T> {
    pub fn new(ask: impl Fn() -> BoxFuture<'static, Result<T>> + Send + Sync + 'static) -> Self {
        let last = Last {
            reply: None,
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

    /// What MongoDB says: a new reply if it comes after at most `wait`, else the last one, unless that is too old.
    pub async fn get(&self, wait: Duration) -> Option<Arc<T>> {
        let mut heard = pin!(self.shared.heard.notified());
        heard.as_mut().enable();
        if self.ask_if_due() {
            let _ = timeout(wait, heard).await;
        }
        let last = self.shared.last.lock();
        let reply = last.reply.as_ref()?;
        (Instant::now() < reply.valid_until).then(|| Arc::clone(&reply.value))
    }

    /// Asks MongoDB if that is allowed now. Returns whether it is being asked, for this call or another.
    fn ask_if_due(&self) -> bool {
        let mut asking = self.asking.lock();
        if asking.as_ref().is_some_and(|task| !task.is_finished()) {
            return true;
        }
        if self.shared.last.lock().next > Instant::now() {
            return false;
        }
        let question = (self.ask)();
        let shared = Arc::clone(&self.shared);
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
            last.reply = Some(Reply {
                value: Arc::new(value),
                valid_until: Instant::now() + KEEP.max(pause * 2),
            });
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

    const WAIT: Duration = Duration::from_millis(300);

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
        cached.get(WAIT).await.map(|number| *number)
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
    async fn nobody_waits_for_a_slow_mongodb_and_it_is_asked_rarely() {
        let cached = counting(Duration::from_secs(3), 100);
        let began = Instant::now();
        assert_eq!(get(&cached).await, None);
        assert_eq!(began.elapsed(), WAIT);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(get(&cached).await, Some(1));
        sleep(Duration::from_secs(56)).await;
        assert_eq!(get(&cached).await, Some(1), "before twenty times three seconds");
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
