//! What Prometheus reads: counted where it happens, put together when it is asked for.
//!
//! No label holds an endpoint, an organization or a URL, so that the number of series is the same for ten endpoints and for
//! ten thousand.

mod counts;
mod encoder;
mod histogram;
mod history;
mod process;
mod reading;

pub use counts::Counts;
pub use history::{History, MINUTES, Minute};
pub use reading::{Reading, Working};
