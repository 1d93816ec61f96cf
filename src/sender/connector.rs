//! How connections are made: the way to the host, TLS with the platform's certificates, pool.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::ServiceExt;
use tower::util::MapResponse;

use super::Policy;
use super::connection::Remembering;
use super::proxy::Connection;
use super::route::Route;

/// Below the 5 s after which Node, the commonest receiver, closes an idle connection.
const IDLE: Duration = Duration::from_secs(4);
/// The most that a response's head may take, in bytes, as in curl; over HTTP/1.1 also the most that a connection's read buffer takes.
pub(super) const MAX_HEAD: usize = 300 * 1024;
/// The most headers in a response over HTTP/1.1. The parser fills a table of that many for each response: with curl's 5,000 that
/// took a tenth of the CPU.
const MAX_HEADERS: usize = 256;
/// What an HTTP/2 receiver may send before we read: as much of a response as is read at all.
const WINDOW: u32 = 64 * 1024;

type Transport = MaybeHttpsStream<Connection>;
type Remember = fn(Transport) -> Remembering<Transport>;
type Connector = MapResponse<HttpsConnector<Route>, Remember>;

/// The HTTP client. It has nothing to switch off: it knows no proxy of the environment, no redirect, no cookie and no decompression.
pub(super) type Http = legacy::Client<Connector, Full<Bytes>>;

/// Two clients over one connector.
#[derive(Clone)]
pub(super) struct Clients {
    /// Pools its connections. Kept are as many to a host as were open: many organizations may have their endpoints at one.
    /// [`Remembering`] bounds all of them.
    pub(super) pooled: Http,
    /// Makes a new connection for each request.
    pub(super) fresh: Http,
}

impl Clients {
    /// By HTTP/2 where the server offers it and `http1_only` is off, else by HTTP/1.1. What is trusted, and shown to the server, is
    /// `tls`, whichever way leads there.
    pub(super) fn new(policy: &Policy, route: Route, tls: rustls::ClientConfig, http1_only: bool) -> Self {
        let connector = connector(policy, route, tls, http1_only);
        Self {
            pooled: build(connector.clone(), usize::MAX, MAX_HEADERS),
            fresh: build(connector, 0, MAX_HEADERS),
        }
    }
}

/// For servers that are asked once in a while: by HTTP/1.1, each time over a new connection.
pub(super) fn occasional(policy: &Policy, route: Route, tls: rustls::ClientConfig, max_headers: usize) -> Http {
    build(connector(policy, route, tls, true), 0, max_headers)
}

fn build(connector: Connector, idle_per_host: usize, max_headers: usize) -> Http {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle_per_host)
        .http1_max_buf_size(MAX_HEAD)
        .http1_max_headers(max_headers)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http2_max_header_list_size(MAX_HEAD as u32)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(WINDOW)
        .build(connector)
}

fn connector(policy: &Policy, route: Route, tls: rustls::ClientConfig, http1_only: bool) -> Connector {
    let tls = HttpsConnectorBuilder::new().with_tls_config(tls);
    let tls = if policy.allow_http {
        tls.https_or_http()
    } else {
        tls.https_only()
    };
    let https = if http1_only {
        tls.enable_http1().wrap_connector(route)
    } else {
        tls.enable_all_versions().wrap_connector(route)
    };
    https.map_response(Remembering::new as Remember)
}
