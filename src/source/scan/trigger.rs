//! What has a scan run: the schedule, a signal, the start, an expiry. While one runs, any number of requests make exactly one
//! more.

use std::sync::Arc;

use bson::DateTime;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Requests for a scan.
#[derive(Clone, Debug, Default)]
pub struct ScanTrigger(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    notify: Notify,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    asked: Option<Asker>,
    since: Option<DateTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    Daemon,
    Operator,
}

/// What a scan looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything that has expired: the schedule or the start asked for it.
    All,
    /// The same, because an operator asked for it, who waits for the report.
    AllForOperator,
    /// What expired at this instant or later: a certificate expires at this moment.
    Since(DateTime),
}

impl ScanTrigger {
    /// Asks for a scan of everything; one that is asked for already is enough.
    pub fn ask(&self) {
        self.asked_by(Asker::Daemon);
    }

    /// The same, for an operator.
    pub fn ask_for_operator(&self) {
        self.asked_by(Asker::Operator);
    }

    fn asked_by(&self, asker: Asker) {
        let mut pending = self.0.pending.lock();
        pending.asked = pending.asked.max(Some(asker));
        self.0.notify.notify_one();
    }

    /// Has a scan run because a certificate has expired at that instant.
    pub fn expired(&self, at: DateTime) {
        let mut pending = self.0.pending.lock();
        pending.since = Some(pending.since.map_or(at, |since| since.min(at)));
        self.0.notify.notify_one();
    }

    /// Waits until a scan is asked for or a certificate has expired.
    pub async fn triggered(&self) -> Extent {
        loop {
            self.0.notify.notified().await;
            let pending = std::mem::take(&mut *self.0.pending.lock());
            match pending {
                Pending {
                    asked: Some(Asker::Operator),
                    ..
                } => return Extent::AllForOperator,
                Pending { asked: Some(_), .. } => return Extent::All,
                Pending { since: Some(since), .. } => return Extent::Since(since),
                Pending { .. } => {}
            }
        }
    }
}
