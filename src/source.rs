//! Where events come from: the scan for what expired, the change stream for what was completed.
//!
//! Sources write to the outbox and ring a bell; they know nothing of who sends.

mod catch_up;
mod lookahead;
mod rejections;
mod scan;
mod schedule;
mod stream;
mod watch;

pub use lookahead::{Horizon, Lookahead};
pub use rejections::Rejections;
pub use scan::{Report, Scan, ScanBell, deliveries};
pub use schedule::Schedule;
pub use watch::{Watch, WatchStatus};
