//! Certificates that somebody keeps locked: by a transaction that has changed one and is still open, of the platform or of an instance
//! that died where its sessions can't be ended. They can't be marked before it ends, so scans leave them out and the others go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocument;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::page::field;
use super::unmarkable::key;
use crate::failpoint;
use crate::model::key_part;
use crate::store::Error;

/// How long scans leave one out, before one is made for it.
const LEFT_OUT_FOR: Duration = Duration::from_secs(2);

/// After this time it is logged. MongoDB itself ends a transaction after a minute, unless `transactionLifetimeLimitSeconds` says otherwise.
const LOG_AFTER: Duration = Duration::from_secs(60);

/// By `_id`.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockedSet(Arc<Mutex<HashMap<Vec<u8>, Locked>>>);

#[derive(Debug)]
struct Locked {
    since: Instant,
    left_out_until: Instant,
    is_logged: bool,
}

impl LockedSet {
    /// Leaves a certificate out for a while that could not be marked, for this reason.
    pub(super) fn leave_out(&self, document: &RawDocument, why: &Error) {
        let (id, now) = (field(document, "_id"), Instant::now());
        let mut all = self.0.lock();
        let locked = all.entry(key(&id)).or_insert(Locked {
            since: now,
            left_out_until: now,
            is_logged: false,
        });
        locked.left_out_until = now + LEFT_OUT_FOR;
        let lasts = now - locked.since;
        if locked.is_logged || lasts < failpoint::limit("locked-log", LOG_AFTER) {
            return;
        }
        locked.is_logged = true;
        warn!(
            certificate = key_part(id.as_raw_bson_ref()), error = %why,
            "somebody else's transaction has kept this certificate from being marked for {} s: its expiry is sent once that ends, the others go on",
            lasts.as_secs()
        );
    }

    /// Whether a scan leaves it out.
    pub(super) fn contains(&self, document: &RawDocument) -> bool {
        let all = self.0.lock();
        !all.is_empty()
            && all
                .get(&key(&field(document, "_id")))
                .is_some_and(|one| Instant::now() < one.left_out_until)
    }

    /// A scan of everything has ended that began at that instant: what it did not leave out, nor find locked, is not locked any more.
    pub(super) fn scanned(&self, began: Instant) {
        self.0.lock().retain(|_, one| one.left_out_until > began);
    }

    /// When a scan may find one that was left out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.lock().values().map(|one| one.left_out_until).min()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
