//! OAuth2 client credentials, over a real token server and a receiver that wants its tokens.

mod daemon;
mod failing;
mod guarded;
mod support;
mod tls;
mod tokens;
