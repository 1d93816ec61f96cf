//! CONNECT (RFC 9110, 9.3.6), on top of hyper's client. hyper-util's own `Tunnel` tells 407 from the other statuses, but not 403 from 502,
//! takes 200 alone for a success, and drops what comes with it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::health::OutageScope;
use super::server::Server;
use crate::sender::connector::MAX_HEAD;
use crate::sender::reason;

/// A connection to an endpoint, or to the proxy.
pub(in crate::sender) type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;

/// How long a connection to the proxy itself may take.
const REACH: Duration = Duration::from_secs(5);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("certhookd/", env!("CARGO_PKG_VERSION")));

/// What the proxy itself is at fault with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection to it can be made.
    Unreachable(String),
    /// It wants a login, or another one.
    Login { has_one: bool },
    /// It broke off before it had answered.
    Broke(String),
    /// It takes connections and says nothing.
    Silent,
}

impl Fault {
    pub(super) fn broke(&self) -> bool {
        matches!(self, Self::Broke(_))
    }

    /// What waits until it is mended. What one target might have caused makes only those wait who have met it.
    pub(super) fn scope(&self) -> OutageScope {
        match self {
            Self::Unreachable(_) | Self::Login { .. } => OutageScope::Everything,
            Self::Broke(_) | Self::Silent => OutageScope::AffectedHosts,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) => write!(f, "can't be reached: {reason}"),
            Self::Login { has_one: true } => f.write_str("refuses the login (407)"),
            Self::Login { has_one: false } => f.write_str("wants a login (407)"),
            Self::Broke(reason) => write!(f, "breaks off before it answers: {reason}"),
            Self::Silent => f.write_str("takes connections and does not respond"),
        }
    }
}

/// Why there is no tunnel.
pub(super) enum TunnelError {
    Proxy(Fault),
    /// What it answered of the target.
    Status(u16),
    /// Something came through the tunnel at once: an HTTP server sends nothing before the request.
    SpokeFirst,
}

/// A connection to `target`, `ADDRESS:PORT`, through the proxy.
pub(super) async fn tunnel(server: &Server, target: &str) -> Result<Connection, TunnelError> {
    // An address and a port always are one: see `SocketAddr`.
    let uri = target.parse::<Uri>().map_err(|_| TunnelError::SpokeFirst)?;
    let response = ask(server, Method::CONNECT, uri, target)
        .await
        .map_err(TunnelError::Proxy)?;
    match response.status() {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            let has_one = server.authorization.is_some();
            Err(TunnelError::Proxy(Fault::Login { has_one }))
        }
        status if !status.is_success() => Err(TunnelError::Status(status.as_u16())),
        status => {
            // hyper makes no tunnel after a 204.
            let upgraded = hyper::upgrade::on(response).await;
            let upgraded = upgraded.map_err(|_| TunnelError::Status(status.as_u16()))?;
            let parts = upgraded.downcast::<Connection>().map_err(|_| TunnelError::SpokeFirst)?;
            match parts.read_buf.is_empty() {
                true => Ok(parts.io),
                false => Err(TunnelError::SpokeFirst),
            }
        }
    }
}

/// Sends the proxy a request over a connection of its own. Returns the head of its response.
pub(super) async fn ask(server: &Server, method: Method, uri: Uri, host: &str) -> Result<Response<Incoming>, Fault> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    // An address and a port, or the proxy's name, which comes from a URL: what a header may hold.
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| Fault::Silent)?);
    headers.insert(USER_AGENT, AGENT);
    if let Some(authorization) = &server.authorization {
        headers.insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    let reaching = timeout(REACH, server.reach()).await;
    let transport =
        reaching.map_err(|_| Fault::Unreachable(format!("no connection within {} s", REACH.as_secs())))??;
    let builder = {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).title_case_headers(true);
        builder
    };
    let (mut sender, connection) = builder.handshake(transport).await.map_err(broke)?;
    // Ends with the response, the tunnel, or the future that waits for them.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(broke)
}

fn broke(error: hyper::Error) -> Fault {
    Fault::Broke(reason::of(&error))
}
