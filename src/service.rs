//! The daemon's ties to the machine: signals in, state and log lines out.

mod host;
mod journal;
mod listener;
mod one_line;
pub mod signals;
pub mod systemd;
pub mod telemetry;
mod watchdog;

pub use listener::Listener;
pub(crate) use one_line::one_line;
pub use watchdog::{Progress, Watchdog};
