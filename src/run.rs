//! The daemon: builds everything, supervises the tasks, orders the shutdown. The only module that sees all others.

mod announcer;
mod asking;
mod certificates;
mod control_number;
mod courier;
mod daemon;
mod endpoint_states;
mod engine;
mod episodes;
mod gate;
mod last_successes;
mod loops;
mod pages;
mod payloads;
mod reading;
mod redrive;
mod remembered;
mod report;
mod running;
mod served_again;
mod settings;
mod start;
mod tally;
mod tasks;
mod upkeep;
mod waited;
mod web;

pub use courier::Courier;
pub use daemon::{Options, run};
pub use engine::Engine;
pub use running::Running;
pub use settings::{Settings, endpoint_policy};
pub use start::{Misconfigured, connect, is_refusal, is_replica_set, reach, refuse_first_layout};
pub use tally::Tally;
pub use tasks::Tasks;
