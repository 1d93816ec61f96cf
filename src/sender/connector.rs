//! How connections are made: guarded resolver, TCP, TLS with the platform's certificates, pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower::util::MapResponse;

use super::Policy;
use super::connection::Remembering;
use super::resolve::Resolver;

/// Below the 5 s after which Node, the commonest receiver, closes an idle connection.
const IDLE: Duration = Duration::from_secs(4);
/// The most that an answer's headers may take, in bytes, over HTTP/1.1; also the size of a connection's read buffer.
const MAX_HEAD: usize = 64 * 1024;
/// The same over HTTP/2.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// What an HTTP/2 receiver may send before we read: as much of an answer as is read at all.
const WINDOW: u32 = 64 * 1024;

type Transport = MaybeHttpsStream<TokioIo<TcpStream>>;
type Remember = fn(Transport) -> Remembering<Transport>;
type Connector = MapResponse<HttpsConnector<HttpConnector<Resolver>>, Remember>;

/// The HTTP client. It has nothing to switch off: it knows no proxy, no redirect, no cookie and no decompression.
pub(super) type Http = legacy::Client<Connector, Full<Bytes>>;

/// Two clients over one connector: one that pools its connections, one that makes a new one for each request.
///
/// Kept are as many to a host as were open: many organizations may have their endpoints at one. [`Remembering`] bounds all of
/// them.
pub(super) fn clients(policy: &Policy, resolver: Resolver, tls: rustls::ClientConfig) -> (Http, Http) {
    let connector = connector(policy, resolver, tls);
    (build(connector.clone(), usize::MAX), build(connector, 0))
}

fn build(connector: Connector, idle_per_host: usize) -> Http {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle_per_host)
        .http1_max_buf_size(MAX_HEAD)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(WINDOW)
        .build(connector)
}

fn connector(policy: &Policy, resolver: Resolver, tls: rustls::ClientConfig) -> Connector {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let tls = HttpsConnectorBuilder::new().with_tls_config(tls);
    let tls = if policy.allow_http {
        tls.https_or_http()
    } else {
        tls.https_only()
    };
    tls.enable_all_versions()
        .wrap_connector(tcp)
        .map_response(Remembering::new as Remember)
}

/// What is trusted: the platform's certificates, read now.
pub(crate) fn tls_config() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth())
}
