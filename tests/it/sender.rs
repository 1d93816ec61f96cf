//! Attempts over real sockets: to a healthy receiver, to sick ones, over TLS.

mod healthy;
mod sick;
pub(crate) mod support;
pub(crate) mod tls;
