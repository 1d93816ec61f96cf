//! The way to a host: its name is resolved and its addresses are checked here, and nothing connects to another address; then
//! directly, or through the proxy.

use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tower::ServiceExt;

use super::proxy::{Connection, Proxy};
use super::resolve::Resolver;

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes connections, without the TLS of the other side.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) resolver: Resolver,
    pub(super) proxy: Proxy,
}

impl Route {
    async fn connect(self, uri: Uri) -> Result<Connection, BoxError> {
        let host = uri.host().unwrap_or_default();
        let addresses = self.resolver.addresses(host).await?;
        match self.proxy.for_addresses(host, &addresses) {
            Some(server) => {
                let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
                let port = uri.port_u16().unwrap_or(default);
                Ok(self.proxy.connect(&server, host, addresses, port).await?)
            }
            None => direct(uri, addresses).await,
        }
    }
}

async fn direct(uri: Uri, addresses: Vec<IpAddr>) -> Result<Connection, BoxError> {
    let mut tcp = HttpConnector::new_with_resolver(Resolved(addresses));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    Ok(MaybeHttpsStream::Http(tcp.oneshot(uri).await?))
}

impl tower::Service<Uri> for Route {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// The addresses of a name that is resolved already.
#[derive(Clone)]
struct Resolved(Vec<IpAddr>);

impl tower::Service<Name> for Resolved {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        // The connector fills in the port.
        let addresses: Vec<_> = self.0.iter().map(|address| SocketAddr::new(*address, 0)).collect();
        std::future::ready(Ok(addresses.into_iter()))
    }
}
