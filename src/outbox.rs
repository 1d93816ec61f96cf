//! The outbox: every write to delivery documents, and the reading that leads to sending.
//!
//! A delivery is one event on its way to one endpoint. Deliveries are appended in batches, stay pending until their result is
//! recorded, and end as delivered, dead or cancelled:
//!
//! ```text
//!            append               record: success                  finishedAt
//! (nothing) ────────► pending ─────────────────────► delivered ─────────────────► removed after the retention
//!                      ▲  │ └── record: failure ───► pending, as a retry of its own, or dead
//!                      │  └──── cancel ────────────► cancelled
//!                      └─────── redrive, replay ──── dead, cancelled, delivered
//! ```
//!
//! No instance claims a delivery: an endpoint is assigned to one instance, and only that one fetches (see `cluster`). Every write
//! compares the document's `version` and raises it.

mod apart;
mod append;
mod background;
mod cancel;
mod cancel_chosen;
mod dead_letters;
pub(crate) mod document;
mod erase;
mod event_locks;
mod fetch;
mod follow;
mod large;
mod look_up;
mod notes;
mod payloads;
mod record;
mod redrive;
mod refused;
mod reject;
mod replay;
mod selection;
mod settled;
mod transition;
mod unreadable;
mod versions;
mod waited;

use std::sync::Arc;
use std::time::Instant;

use bson::{Bson, RawDocumentBuf};
use parking_lot::Mutex;

use crate::model::EndpointKey;
use crate::store::{Pauses, Store};
use crate::trace::Tracer;

pub use append::Appended;
pub use cancel::Cancelled;
pub use dead_letters::LastDeadLetter;
pub use document::{BATCH_BYTES, Batch, Class, Delivery, Fetched, NewDelivery, single_id};
pub use erase::{Erased, Subject, Traces, would_erase};
pub use event_locks::LockedEvents;
pub use fetch::{Head, Looked, Read, Want};
pub use follow::{Change, Follower, Wanted};
pub use large::UNFINISHED;
pub use look_up::{LookedUp, look_up};
pub use notes::{all_states, endpoint_of_state, state_id};
pub use record::{Settlement, Unrecorded};
pub use redrive::{DocumentState, Redriven};
pub use reject::{Rejected, Unmarkable};
pub use replay::{Preview, Replayable};
pub use selection::{Search, Selection};
pub use transition::{Next, PastAttempts, retry_deadline, transition};
pub use unreadable::Unreadable;
pub use waited::{Death, Ended, Waited};

/// Hears of what is committed.
pub trait Listener: Send + Sync {
    /// These batches wait in the outbox now, as these documents; none was there before `began`.
    fn appended(&self, batches: Vec<(Head, RawDocumentBuf)>, began: Instant);
}

/// The delivery documents, as one instance writes them.
#[derive(Clone)]
pub struct Outbox {
    store: Store,
    instance_id: Arc<str>,
    listener: Arc<dyn Listener>,
    tracer: Tracer,
    /// Documents that MongoDB refuses to change.
    refused: Arc<Mutex<Pauses<(EndpointKey, Bson)>>>,
    taken: append::TakenIds,
    event_locks: event_locks::EventLocks,
}

impl Outbox {
    /// The outbox as one instance writes it; `listener` hears of what it appends.
    pub fn new(store: Store, instance_id: Arc<str>, listener: Arc<dyn Listener>, tracer: Tracer) -> Self {
        Self {
            store,
            instance_id,
            listener,
            tracer,
            refused: Arc::default(),
            taken: append::TakenIds::default(),
            event_locks: event_locks::EventLocks::default(),
        }
    }
}
