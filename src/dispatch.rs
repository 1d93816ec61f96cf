//! From the outbox to the endpoints: a bounded delivery queue in memory, the requests, and the recording of results.
//!
//! ```text
//! outbox ──► fetcher ──► delivery queue ──► workers ──► recorder ──► outbox
//!    ▲ what waits (Waiting) ▲ one per endpoint   (requests in flight)      │
//!    └──────────────────────┴──── retries, freed slots ◄──────────────────┘
//! ```

mod admission;
mod breaker;
mod endpoint_set;
mod fetcher;
mod pace;
mod queue;
mod recorder;
mod waiting;
mod worker;

pub use endpoint_set::EndpointSet;
pub use fetcher::{EndpointState, Fetcher, Overview};
pub use pace::ConfiguredPace;
pub use queue::{DeliveryQueue, Fill, Gate, Limits};
pub use recorder::{Observer, Recorder, RecorderParts};
pub use waiting::Waiting;
pub use worker::{Abort, Deliver, Workers};
