//! One proxy as it is configured, and connections to it.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use parking_lot::Mutex;
use tower::ServiceExt;

use super::connect::{Connection, Fault};
use crate::config::{NoProxy, ProxyServer};
use crate::sender::resolve::Lookup;
use crate::sender::{literal, reason, tls_config};

/// Hosts that are remembered to be reached directly, at most.
const REMEMBERED: usize = 4096;

pub(in crate::sender) struct Server {
    uri: Uri,
    /// `HOST:PORT`.
    pub(super) name: String,
    pub(super) authorization: Option<HeaderValue>,
    no_proxy: NoProxy,
    /// Hosts all of whose addresses were in networks that are reached directly.
    direct: Mutex<HashSet<String>>,
    connector: HttpsConnector<HttpConnector<Unguarded>>,
}

impl Server {
    pub(super) fn new(
        server: Option<ProxyServer>,
        no_proxy: NoProxy,
        lookup: &Lookup,
    ) -> Result<Option<Arc<Self>>, rustls::Error> {
        let Some(server) = server else { return Ok(None) };
        let mut tcp = HttpConnector::new_with_resolver(Unguarded(Arc::clone(lookup)));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls_config()?);
        Ok(Some(Arc::new(Self {
            uri: server.uri,
            name: server.name,
            authorization: server.authorization,
            no_proxy,
            direct: Mutex::default(),
            connector: https.https_or_http().enable_http1().wrap_connector(tcp),
        })))
    }

    /// A connection to the proxy itself. Its name is looked up each time.
    pub(super) async fn reach(&self) -> Result<Connection, Fault> {
        let connecting = self.connector.clone().oneshot(self.uri.clone());
        connecting
            .await
            .map_err(|error| Fault::Unreachable(reason::of(&*error)))
    }

    /// Whether that host is reached directly, as far as its name tells.
    pub(super) fn is_direct(&self, host: &str) -> bool {
        match literal(host) {
            Some(address) => self.no_proxy.covers(&[address]),
            None => self.no_proxy.names(host) || self.direct.lock().contains(host),
        }
    }

    /// Whether these addresses of that host are reached through the proxy.
    pub(super) fn is_for(&self, host: &str, addresses: &[IpAddr]) -> bool {
        let is_covered = self.no_proxy.covers(addresses);
        if literal(host).is_none() {
            let mut direct = self.direct.lock();
            if !is_covered {
                direct.remove(host);
            } else if direct.len() < REMEMBERED {
                direct.insert(host.to_owned());
            }
        }
        !is_covered && !self.no_proxy.names(host)
    }
}

/// Resolves the proxy's name: where it may be is the operator's to say.
#[derive(Clone)]
struct Unguarded(Lookup);

impl tower::Service<Name> for Unguarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking = (self.0)(name.as_str().to_owned());
        Box::pin(async move {
            let found = looking
                .await
                .map_err(|error| io::Error::other(format!("dns: {error}")))?;
            if found.is_empty() {
                return Err(io::Error::other("dns: the name has no address"));
            }
            let addresses: Vec<_> = found.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}
