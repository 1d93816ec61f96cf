//! OAuth2 client credentials, over a real token server and a receiver that wants its tokens.

mod daemon;
mod failing;
mod guarded;
pub(crate) mod support;
mod tls;
mod tokens;
