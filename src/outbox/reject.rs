//! Documents that can't be events: kept for the operator.

use bson::{DateTime, RawBson, RawDocumentBuf, rawdoc};

use super::Outbox;
use crate::model::{EventId, EventType};
use crate::store::{DELIVERIES, Result, Stopped, Unit, insert_if_absent};

/// A document that can't be an event.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// What it would have been.
    pub event_type: EventType,
    /// The BadgeUser's `_id`.
    pub badge_user: RawBson,
    /// The part of the key that tells this rejection from a later one: the event's id.
    pub event_id: EventId,
    /// What is wrong, in one line.
    pub reason: String,
}

impl Outbox {
    /// Keeps a note of these documents. Writing one again changes nothing.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops before MongoDB confirmed the write.
    pub async fn reject(&self, rejected: &[Rejected], now: DateTime) -> std::result::Result<(), Stopped> {
        let write = || async {
            let mut unit = self.store.begin(false).await?;
            self.reject_within(&mut unit, rejected, now).await
        };
        self.store.persist("record rejected documents", write).await
    }

    /// The same as a part of `unit`.
    ///
    /// # Errors
    /// MongoDB did not do it, or did not confirm it.
    pub(crate) async fn reject_within(&self, unit: &mut Unit, rejected: &[Rejected], now: DateTime) -> Result<()> {
        if rejected.is_empty() {
            return Ok(());
        }
        let rows: Result<Vec<_>> = rejected.iter().map(|one| insert_if_absent(&encode(one, now))).collect();
        unit.update(DELIVERIES, rows?.iter()).await.map(drop)
    }
}

fn encode(rejected: &Rejected, now: DateTime) -> RawDocumentBuf {
    rawdoc! {
        "_id": format!("rejected/{}", rejected.event_id),
        "v": 1,
        "state": "rejected",
        "eventType": rejected.event_type.as_str(),
        "badgeUserId": rejected.badge_user.clone(),
        "reason": rejected.reason.as_str(),
        "createdAt": now,
        "finishedAt": now,
    }
}
