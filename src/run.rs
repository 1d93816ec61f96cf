//! The daemon: builds everything, supervises the tasks, orders the shutdown. The only place that sees all rooms.

mod courier;
mod daemon;
mod engine;
mod loops;
mod reading;
mod redrive;
mod report;
mod running;
mod settings;
mod start;
mod tally;
mod tasks;
mod web;

pub use courier::Courier;
pub use daemon::{Options, run};
pub use engine::{Engine, Wanted};
pub use report::Snapshot;
pub use running::Running;
pub use settings::Settings;
pub use start::{Misconfigured, NEEDS_REPLICA_SET, connect, is_refusal, is_replica_set, reach};
pub use tally::Tally;
pub use tasks::Tasks;
