//! Certificates that somebody keeps locked: by a transaction that has changed one and is still open, of the platform or of an instance
//! that died where its sessions can't be ended. They can't be marked before it ends, so scans leave them out and the others go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::Scan;
use super::page::field;
use super::unmarkable::key;
use crate::failpoint;
use crate::model::key_part;
use crate::source::transaction_size::Repetition;
use crate::store::{self, Error, Kind, Stopped, Writer, update_row};

/// After this time a scan tries to mark them again.
const LEFT_OUT_FOR: Duration = Duration::from_secs(2);

/// After this time it is logged. MongoDB itself ends a transaction after a minute, unless `transactionLifetimeLimitSeconds` says otherwise.
const LOG_AFTER: Duration = Duration::from_secs(60);

/// A page of at most this many certificates is asked one by one which are locked.
const FEW: usize = 16;

/// At most this many are left out: where there are more, a scan waits and tries again.
const MOST: usize = 10_000;

#[derive(Clone, Debug, Default)]
pub(crate) struct LockedSet(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By `_id`.
    all: HashMap<Vec<u8>, Locked>,
    /// When a scan tries to mark them again.
    due: Option<Instant>,
    is_logged: bool,
}

#[derive(Debug)]
struct Locked {
    since: Instant,
    is_left_out: bool,
}

impl LockedSet {
    /// Leaves a certificate out that could not be marked, for this reason. `false` if there are too many of them.
    pub(super) fn leave_out(&self, document: &RawDocument, why: &Error) -> bool {
        let (id, now) = (field(document, "_id"), Instant::now());
        let mut state = self.0.lock();
        if state.all.len() >= MOST {
            return false;
        }
        let locked = state.all.entry(key(&id)).or_insert(Locked {
            since: now,
            is_left_out: true,
        });
        locked.is_left_out = true;
        let lasts = now - locked.since;
        state.due.get_or_insert(now + LEFT_OUT_FOR);
        if lasts >= failpoint::limit("locked-log", LOG_AFTER) && !state.is_logged {
            state.is_logged = true;
            warn!(
                certificate = key_part(id.as_raw_bson_ref()), certificates = state.all.len(), error = %why,
                "somebody else's transaction has kept certificates from being marked for {} s: their expiries are sent once it ends, the others go on",
                lasts.as_secs()
            );
        }
        true
    }

    /// Whether a scan leaves it out.
    pub(super) fn contains(&self, document: &RawDocument) -> bool {
        let state = self.0.lock();
        !state.all.is_empty()
            && state
                .all
                .get(&key(&field(document, "_id")))
                .is_some_and(|one| one.is_left_out)
    }

    /// A scan of everything begins: it tries to mark them again.
    pub(super) fn scan_begins(&self) {
        let mut state = self.0.lock();
        state.all.values_mut().for_each(|one| one.is_left_out = false);
        state.due = None;
    }

    /// That scan has ended: forgets those that it marked or no longer found.
    pub(super) fn scan_ended(&self) {
        let mut state = self.0.lock();
        state.all.retain(|_, one| one.is_left_out);
        state.is_logged &= !state.all.is_empty();
        state.due = (!state.all.is_empty()).then(|| Instant::now() + LEFT_OUT_FOR);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.lock().due
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().all.len()
    }
}

impl Scan {
    /// Somebody else has changed one of the certificates of a page, or is about to append the same event: finds and leaves out which,
    /// once they are few.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops.
    pub(super) async fn look_for_locked(
        &self,
        page: &[RawDocumentBuf],
        error: &Error,
        repetition: &mut Repetition<'_>,
    ) -> Result<(), Stopped> {
        if page.len() > FEW {
            repetition.halve();
            return Ok(());
        }
        let is_found = match page {
            // Whatever it is that meets a conflict.
            [one] => self.locked.leave_out(one, error),
            few => self.leave_out_locked(few, error).await.unwrap_or(false),
        };
        if is_found {
            Ok(())
        } else {
            repetition.smaller(error).await
        }
    }

    /// Leaves those of these certificates out that somebody keeps locked. Returns whether there are any.
    ///
    /// # Errors
    /// MongoDB is unavailable.
    async fn leave_out_locked(&self, documents: &[RawDocumentBuf], why: &Error) -> store::Result<bool> {
        let mut found = false;
        for document in documents {
            if self.is_locked(document).await? {
                found |= self.locked.leave_out(document, why);
            }
        }
        Ok(found)
    }

    /// Whether it can't be changed now: asked by a change that is given up.
    async fn is_locked(&self, document: &RawDocument) -> store::Result<bool> {
        let mut transaction = self.store.begin(Writer::Scan).await?;
        let touch = update_row(
            rawdoc! { "_id": field(document, "_id") },
            rawdoc! { "$currentDate": { "updatedAt": true } },
            false,
        );
        let badge_users = self.store.badge_users();
        let changed = transaction.update(badge_users.name(), [touch].iter()).await;
        transaction.abort().await;
        match changed {
            Err(error) if error.kind() == Kind::Conflict => Ok(true),
            Err(error) if error.kind().is_general() => Err(error),
            _ => Ok(false),
        }
    }
}
