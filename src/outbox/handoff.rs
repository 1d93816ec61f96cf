//! How a delivery gets from the outbox into the queue without being read back: it is born claimed, for a place in the
//! queue that was reserved before it was written. The queue implements this; the outbox knows no more of it.

use futures_util::future::BoxFuture;

use crate::model::EndpointKey;

use super::Claimed;

/// The queue, as the outbox sees it.
pub trait Intake: Send + Sync {
    /// Reserves a place for one delivery with a body of `bytes`. `None`: no room, not this daemon's endpoint, or older
    /// deliveries of this endpoint wait in the outbox. The delivery then stays in the outbox, pending.
    fn reserve(&self, endpoint: &EndpointKey, bytes: usize) -> Option<Box<dyn Slot>>;

    /// How many deliveries the queue has room for; waits a moment for some, where it is nearly full.
    fn room(&self) -> BoxFuture<'_, usize>;

    /// Says that deliveries now wait in the outbox for these endpoints.
    fn pending(&self, endpoints: &mut dyn Iterator<Item = &EndpointKey>);
}

/// A reserved place. Dropped unfilled, it is free again.
pub trait Slot: Send {
    /// Puts the delivery in its place, to be sent.
    fn fill(self: Box<Self>, delivery: Claimed);
}
