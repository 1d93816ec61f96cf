//! Where events come from: the scan for what expired, the change stream for what was completed.
//!
//! Sources write to the outbox, which wakes up the fetchers; they know nothing of that. They never wait for the delivery
//! queue: the outbox is the buffer.

mod missed_awards;
mod next_expiry;
mod rejections;
mod scan;
mod schedule;
mod stream;
mod transaction_size;
mod watch;

pub use scan::deliveries;

pub(crate) use next_expiry::{Horizon, Lookahead};
pub(crate) use rejections::Rejections;
pub(crate) use scan::{Extent, Report, Scan, ScanTrigger, WouldSend, expired};
pub(crate) use schedule::{Schedule, Timer};
pub(crate) use watch::Watch;
