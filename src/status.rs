//! How it stands, as MongoDB knows it: for `certhookd status`, the metrics and the page.

mod backlog;
mod cached;

pub use backlog::{Backlog, backlog, count};
pub use cached::Cached;
