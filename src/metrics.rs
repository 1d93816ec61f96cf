//! What Prometheus is told: counted where it happens, read when somebody asks.
//!
//! No label holds an endpoint, an organization or a URL, so that the number of series is the same for ten endpoints and for
//! ten thousand.

mod counts;
mod histogram;
mod history;
mod process;
mod reading;
mod sheet;

pub use counts::Counts;
pub use history::{History, MINUTES, Minute};
pub use reading::{Endpoints, Reading, Working};
