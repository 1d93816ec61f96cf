//! The progress of the loop that a future belongs to: an operation that failed counts as progress, too.

use std::sync::Arc;

type Progress = Arc<dyn Fn() + Send + Sync>;

tokio::task_local! {
    static PROGRESS: Progress;
}

/// Runs a loop so that each of its operations that MongoDB fails, however deep inside, calls `report`. What it spawns is not part of it.
pub async fn with_progress<F: Future>(report: impl Fn() + Send + Sync + 'static, work: F) -> F::Output {
    PROGRESS.scope(Arc::new(report), work).await
}

/// The loop that this is a part of has done something.
pub(super) fn report() {
    let _ = PROGRESS.try_with(|report| report());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_report_reaches_the_loop_that_it_is_a_part_of_and_no_other() {
        let reports = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reports);
        let counted = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        report();
        with_progress(counted, async {
            report();
            tokio::spawn(async { report() }).await.unwrap();
        })
        .await;
        assert_eq!(reports.load(Ordering::Relaxed), 1);
    }
}
