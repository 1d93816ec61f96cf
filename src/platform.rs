//! The platform's documents, and the bytes that receivers get of them.

mod endpoint;

pub use endpoint::{Auth, Endpoint};
