//! The daemon's ties to the machine: signals in, state and log lines out.

mod journal;
mod listener;
mod one_line;
pub mod signals;
pub mod systemd;
pub mod telemetry;
mod watchdog;

pub use listener::Listener;
pub use watchdog::{Pulse, Watchdog};
