//! The platform's documents, and the bytes that receivers get of them.

mod endpoint;
mod json;

pub use endpoint::{Auth, Endpoint};
pub use json::{JsonError, JsonFault, append_json, to_json};
