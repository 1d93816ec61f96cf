//! The words that every module shares: events, endpoints' keys, outcomes and time.

mod clock;
mod dues;
mod event;
mod outcome;
mod period;
mod reloadable;
mod text;
mod ticks;

pub use clock::{Clock, earlier, later, time_until};
pub use dues::Dues;
pub(crate) use event::key_part;
pub use event::{EndpointKey, EventId, EventType, Message, MessageType, NoticeType, id_part};
pub use outcome::{Concerns, Failure, Outcome};
pub use period::{Period, counted_back, read_periods, uncounted};
pub use reloadable::Reloadable;
pub(crate) use text::{count, printable, spelled, stays_in_line};
pub use ticks::{in_about, sleep_about};
