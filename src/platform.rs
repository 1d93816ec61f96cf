//! The platform's documents, and the bytes that receivers get of them.

mod endpoint;
mod json;
pub mod member_config;

pub use endpoint::{Auth, Endpoint};
pub use json::{JsonError, JsonFault, MAX_DEPTH, append_json, to_json};
pub use member_config::{EndpointPolicy, MemberConfig};
