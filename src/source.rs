//! Where events come from: the scan for what expired, the change stream for what was completed.
//!
//! Sources write to the outbox, which wakes up whoever sends; they know nothing of that. They never wait for the delivery
//! queue: the outbox is the buffer.

mod attempts;
mod catch_up;
mod next_expiry;
mod rejections;
mod scan;
mod schedule;
mod stream;
mod watch;

pub use next_expiry::{Horizon, Lookahead};
pub use rejections::Rejections;
pub use scan::{Extent, Report, Scan, ScanTrigger, deliveries, expired};
pub use schedule::{Schedule, Timer};
pub use watch::Watch;
