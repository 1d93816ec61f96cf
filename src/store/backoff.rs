//! Pauses before what failed is repeated.

use std::time::Duration;

use super::Kind;

/// Waits before an operation is repeated: 100 ms doubling to 5 s, or to 30 s where MongoDB refuses, each cut by up to a quarter so that
/// instances do not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: Duration::from_millis(100),
        }
    }
}

impl Backoff {
    /// Waits once, longer each time, at most 5 s.
    pub(crate) async fn wait(&mut self) {
        self.wait_at_most(Duration::from_secs(5)).await;
    }

    /// Waits once after such an error: a refusal ends when somebody changes something, so it may take longer.
    pub(crate) async fn wait_after(&mut self, kind: Kind) {
        if kind.is_refusal() {
            self.wait_at_most(Duration::from_secs(30)).await;
        } else {
            self.wait().await;
        }
    }

    async fn wait_at_most(&mut self, most: Duration) {
        let full = self.next.min(most);
        self.next = full * 2;
        tokio::time::sleep(full.mul_f64(1.0 - 0.25 * fastrand::f64())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_five_seconds_and_after_a_refusal_to_thirty() {
        for (kind, most) in [
            (Kind::Unavailable, 5),
            (Kind::Conflict, 5),
            (Kind::Authentication, 5),
            (Kind::Denied, 30),
            (Kind::Refused, 30),
        ] {
            let mut backoff = Backoff::default();
            for _ in 0..20 {
                backoff.wait_after(kind).await;
            }
            let began = tokio::time::Instant::now();
            backoff.wait_after(kind).await;
            let took = began.elapsed().as_secs_f64();
            let most = f64::from(most);
            assert!((most * 0.74..=most * 1.01).contains(&took), "{kind:?}: {took} s");
        }
    }
}
