//! Asks MongoDB for people who don't wait long, and never much at once.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::reading::REPLY_TIMEOUT;
use crate::model::printable;
use crate::store::{Kind, Result};

/// What MongoDB is asked at once, at most.
const AT_ONCE: usize = 2;

/// A question that nobody waits for any more is given up after that.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Of an error, in bytes.
const ERROR: usize = 512;

/// Questions of one kind. One that is not answered in time keeps its turn, so that a slow MongoDB is not asked ever more.
pub(super) struct Asking {
    turns: Arc<Semaphore>,
    /// Given up when this is dropped.
    tasks: Mutex<JoinSet<()>>,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: Mutex::default(),
        }
    }
}

impl Asking {
    /// The reply, if it comes within [`REPLY_TIMEOUT`]; else why there is none.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl Future<Output = Result<T>> + Send + 'static,
    ) -> std::result::Result<T, String> {
        let silent = || "MongoDB has not responded".to_owned();
        let until = Instant::now() + REPLY_TIMEOUT;
        let turn = timeout_at(until, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(silent());
        };
        let (answer, reply) = oneshot::channel();
        self.spawn(async move {
            // Nobody hears what comes too late.
            let _ = answer.send(timeout(GIVE_UP, question).await);
            drop(turn);
        });
        match timeout_at(until, reply).await {
            Ok(Ok(Ok(Ok(reply)))) => Ok(reply),
            Ok(Ok(Ok(Err(error)))) if error.kind() != Kind::Unavailable => {
                let error = error.to_string();
                Err(format!("MongoDB refused: {}", printable(error.as_bytes(), ERROR)))
            }
            _ => Err(silent()),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn a_slow_mongodb_is_asked_twice_at_once_and_nobody_waits_for_it() {
        let (asking, asked) = (Asking::default(), Arc::new(AtomicUsize::new(0)));
        let slow = || {
            let asked = Arc::clone(&asked);
            asking.ask(async move {
                asked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(3)).await;
                Ok(())
            })
        };
        let began = Instant::now();
        let replies = futures_util::future::join_all((0..50).map(|_| slow())).await;
        assert!(
            replies
                .iter()
                .all(|reply| reply.as_ref().is_err_and(|why| why == "MongoDB has not responded"))
        );
        assert_eq!(
            (began.elapsed(), asked.load(Ordering::Relaxed)),
            (REPLY_TIMEOUT, AT_ONCE)
        );
        sleep(Duration::from_secs(3)).await;
        assert_eq!(asking.ask(async { Ok(7) }).await, Ok(7), "once it has responded");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_responds_is_given_up_and_what_is_refused_is_said() {
        let asking = Asking::default();
        for _ in 0..AT_ONCE {
            assert!(asking.ask(std::future::pending::<Result<()>>()).await.is_err());
        }
        assert!(asking.ask(async { Ok(7) }).await.is_err(), "no turn is left");
        sleep(GIVE_UP).await;
        assert_eq!(asking.ask(async { Ok(7) }).await, Ok(7));
        let refused = asking
            .ask(async { Err::<(), _>(crate::store::Error::refused("no\u{1b}[2J")) })
            .await;
        assert!(refused.is_err_and(|why| why.starts_with("MongoDB refused: no") && !why.contains('\u{1b}')));
    }
}
