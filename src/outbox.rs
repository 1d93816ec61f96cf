//! The outbox: every write to our delivery documents, and who may watch them.
//!
//! A delivery is one event on its way to one endpoint. Its `_id` is derived from both, so whoever finds the event again
//! inserts the same `_id` again and learns that it is there. Its states:
//!
//! ```text
//!            append                    claim                record
//! (nothing) ────────► pending ◄──────────────────► claimed ────────► delivered | dead | cancelled
//!     └──── append, with a place in the queue ─────────▲
//! ```
//!
//! A claim has an owner (one run of one daemon) and a number (never used twice by that owner); a result is written only
//! where both still stand. A claim lives as long as its owner's heartbeat: see [`Outbox::adopt`].

mod append;
mod claim;
mod document;
mod follow;
mod group;
mod handoff;
mod record;
mod reject;
mod replay;
mod transition;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::store::Store;
use crate::trace::Tracer;

pub use append::Appended;
pub(crate) use append::Written;
pub use claim::LostClaim;
pub use document::{Claimed, NewDelivery};
pub use follow::{Change, Follower, Wanted};
pub use group::{Entry, Group, Kind};
pub use handoff::{Intake, Slot};
pub use record::Verdict;
pub use reject::Rejected;
pub use replay::Selection;
pub use transition::{Next, transition};

/// Our delivery documents.
#[derive(Clone)]
pub struct Outbox {
    store: Store,
    owner: Arc<str>,
    claims: Arc<AtomicI64>,
    groups: Arc<AtomicI64>,
    intake: Arc<dyn Intake>,
    tracer: Tracer,
}

impl Outbox {
    /// The outbox as seen by one run of one daemon. What it appends is offered to `intake` first.
    pub fn new(store: Store, owner: Arc<str>, intake: Arc<dyn Intake>) -> Self {
        Self {
            store,
            owner,
            claims: Arc::default(),
            groups: Arc::default(),
            intake,
            tracer: Tracer::default(),
        }
    }

    /// The same, with spans for the events that are appended.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// How many deliveries the queue has room for just now: a source that appends no more spares the way through the database.
    pub async fn room(&self) -> usize {
        self.intake.room().await
    }

    /// A claim number that this owner never used before.
    fn draw_claim(&self) -> i64 {
        self.claims.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The same for a group of results.
    fn draw_group(&self) -> i64 {
        self.groups.fetch_add(1, Ordering::Relaxed) + 1
    }
}
