//! From the outbox to the endpoints: a bounded delivery queue in memory, the requests, and the recording of results.
//!
//! ```text
//! outbox ──► fetcher ──► delivery queue ──► workers ──► recorder ──► outbox
//!    ▲ what waits (Waiting) ▲ one per endpoint   (requests in flight)      │
//!    └──────────────────────┴──── retries, freed slots ◄──────────────────┘
//! ```

mod admission;
mod breaker;
mod fetcher;
mod queue;
mod recorder;
mod waiting;
mod worker;

pub use fetcher::{Fetcher, OffEndpoints, Report, Standing, Stands};
pub use queue::{DeliveryQueue, Fill, Limits, MayBegin};
pub use recorder::{Drained, Observer, Parts, Recorder, ServedSince};
pub use waiting::Waiting;
pub use worker::{Abort, Attempted, Deliver, Workers};
