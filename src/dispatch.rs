//! From the outbox to the endpoints: a bounded window in memory, one lane an endpoint, and the writing of results.
//!
//! ```text
//! outbox ──(born claimed)──► Window ─► lane ─► worker ≤ 5 ─► Deliver ─► Recorder ─► outbox
//!    └──────► Feeder ────────►         (one permit of `max_in_flight` each)
//! ```
//!
//! A delivery keeps its place in the window until its result is written, so memory is bounded by construction.

mod breaker;
mod feeder;
mod permits;
mod recorder;
mod window;
mod worker;

pub use feeder::{Fed, Feeder};
pub use permits::Permits;
pub use recorder::{Observer, Recorder};
pub use window::{Fill, Job, Window};
pub use worker::{Attempted, Deliver, Workers};
