//! Attempts over real sockets: to a healthy receiver, to sick ones, over TLS.

mod chains;
mod heads;
mod healthy;
mod http2;
pub(crate) mod own_certificates;
mod sick;
pub(crate) mod support;
pub(crate) mod tls;
