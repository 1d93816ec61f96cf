//! The words that every room shares: events, endpoints' keys, outcomes and time.

mod clock;
mod event;
mod outcome;

pub use clock::Clock;
pub use event::{EndpointKey, EventId, EventType, Message};
pub use outcome::{Failure, Outcome};
