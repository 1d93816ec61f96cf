//! The proof of life of the loop that a future belongs to: a try that failed counts as one.

use std::sync::Arc;

type Pulse = Arc<dyn Fn() + Send + Sync>;

tokio::task_local! {
    static PULSE: Pulse;
}

/// Runs a loop so that each of its tries that MongoDB fails, however deep inside, calls `beat`. What it spawns is not part of it.
pub async fn with_pulse<F: Future>(beat: impl Fn() + Send + Sync + 'static, work: F) -> F::Output {
    PULSE.scope(Arc::new(beat), work).await
}

/// The loop that this is a part of has tried something.
pub(super) fn beat() {
    let _ = PULSE.try_with(|beat| beat());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_beat_reaches_the_loop_that_it_is_a_part_of_and_no_other() {
        let beats = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&beats);
        let counted = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        beat();
        with_pulse(counted, async {
            beat();
            tokio::spawn(async { beat() }).await.unwrap();
        })
        .await;
        assert_eq!(beats.load(Ordering::Relaxed), 1);
    }
}
