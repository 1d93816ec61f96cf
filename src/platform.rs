//! The platform's documents, and the bytes that receivers get of them.

pub mod badge_user;
mod directory;
mod endpoint;
mod json;
pub mod member_config;
mod nearest;
mod tls;

pub use badge_user::{Event, Unfit};
pub use directory::{Directory, DocumentId, EndpointCounts, Found, Refresh};
pub use endpoint::{Auth, ClientCredentials, Endpoint, is_reserved};
pub use json::{JsonError, JsonFault, MAX_DEPTH, append_json, to_json};
pub use member_config::{EndpointPolicy, Entry, EntryState, MemberConfig};
pub use nearest::{label, nearest};
pub use tls::{End, Identity, Tls};
