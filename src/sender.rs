//! Sending: one attempt to deliver one message to one endpoint, and how long to wait for the next.
//!
//! This module sees neither database nor queue. [`Client::attempt`] returns what happened as an
//! [`Outcome`](crate::model::Outcome); what becomes of the delivery is decided elsewhere.

mod auth;
mod client;
mod connection;
mod connector;
mod dedicated;
mod guard;
mod lookup;
mod mask;
mod oauth;
mod protocol;
mod proxy;
mod reason;
mod request;
mod resolve;
mod response;
mod retry;
mod route;
mod sign;
mod status_line;
mod tls;

use std::net::IpAddr;

use ipnet::IpNet;

pub use client::{Client, ClientError, Preview, ShownResponse};
pub use guard::{Blocked, check_addr, check_url};
pub use lookup::system_lookup;
pub use proxy::{OutageScope, Proxy, ProxyCheck, ProxyOutage};
pub(crate) use reason::of as describe;
pub use request::Unsendable;
pub use resolve::Lookup;
pub use retry::RetryPolicy;
pub use sign::sign;
pub(crate) use tls::tls_config;

/// The address that a URL's host is, if it is one.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What the operator allows, and how requests present themselves.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whether plain `http://` may be used.
    pub allow_http: bool,
    /// Networks that the guard would refuse but that this operator trusts.
    pub allow_networks: Vec<IpNet>,
    /// The value of `X-Webhook-Source`.
    pub source: String,
    /// Whether a failed attempt keeps how the response's body begins.
    pub keep_responses: bool,
}
