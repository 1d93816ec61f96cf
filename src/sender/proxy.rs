//! The forward proxy that endpoints and token servers are reached through, and whether it works.
//!
//! **Whose fault it is.** The proxy's own faults are no endpoint's: it can't be reached, it wants a login, it breaks off before it has
//! answered CONNECT. Then all that goes through it waits, and it is asked until it answers. A status other than 407 is about the
//! endpoint, and that endpoint's failure: proxies answer 502 to 504 where the target is dead, and 403 where it is forbidden.
//!
//! What one endpoint could cause must not make the others wait:
//! * A timeout, or a connection that broke, is the endpoint's if the proxy reacts at that moment to a request that no endpoint has a
//!   part in (`OPTIONS *`, any status), or has just answered CONNECT for another; else it is the proxy's.
//! * What was under way during an outage that has ended since is not charged.
//! * A proxy that breaks off before it has answered CONNECT is at fault, unless it has done so for the same host before and answered for
//!   others since.
//! * Where the proxy can be reached and does not want a login, only those who have met its fault wait. The others try it, and whoever
//!   is answered ends the outage.

mod connect;
mod health;
mod probe;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use self::connect::{Fault, TunnelError};
use self::health::{Asked, Health};
use self::server::Server;
use super::lookup::system_lookup;
use super::resolve::Lookup;
use crate::config::{NoProxy, ProxyServer};
use crate::model::Reloadable;
use crate::platform::Endpoint;

pub(super) use self::connect::Connection;
pub use self::health::{OutageScope, ProxyOutage};
pub use self::probe::ProxyCheck;

/// The proxy, if there is one. Clones share it.
#[derive(Clone)]
pub struct Proxy(Arc<Shared>);

struct Shared {
    server: Reloadable<Option<Arc<Server>>>,
    health: Health,
    lookup: Lookup,
}

/// Why there is no tunnel to a target.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NoTunnel {
    /// It is the proxy's fault: nothing was attempted.
    #[error("{0}")]
    Unavailable(String),
    /// It is about the target.
    #[error("{0}")]
    Target(String),
}

impl NoTunnel {
    /// Why nothing was attempted, if it is the proxy's fault.
    pub(super) fn proxy_fault(&self) -> Option<&str> {
        match self {
            Self::Unavailable(reason) => Some(reason),
            Self::Target(_) => None,
        }
    }
}

impl Proxy {
    /// No proxy: endpoints are reached directly.
    pub fn none() -> Self {
        Self(Arc::new(Shared {
            server: Reloadable::new(None),
            health: Health::default(),
            lookup: system_lookup(),
        }))
    }

    /// Through `server`, if there is one; `lookup` resolves its name. `no_proxy` are reached directly.
    ///
    /// # Errors
    /// The platform's certificates can't be used.
    pub fn new(server: Option<ProxyServer>, no_proxy: NoProxy, lookup: Lookup) -> Result<Self, rustls::Error> {
        let server = Server::new(server, no_proxy, &lookup)?;
        Ok(Self(Arc::new(Shared {
            server: Reloadable::new(server),
            health: Health::default(),
            lookup,
        })))
    }

    /// From now on connections are made through this one. An outage goes on until it is known that this one works.
    ///
    /// # Errors
    /// As [`Proxy::new`]; then nothing has changed.
    pub fn replace(&self, server: Option<ProxyServer>, no_proxy: NoProxy) -> Result<(), rustls::Error> {
        let server = Server::new(server, no_proxy, &self.0.lookup)?;
        self.0.server.set(server);
        self.0.health.notify_changed();
        Ok(())
    }

    /// Whether there is one.
    pub fn is_configured(&self) -> bool {
        self.0.server.get().is_some()
    }

    /// The present outage, if there is one.
    pub fn outage(&self) -> Option<ProxyOutage> {
        self.0.health.outage()
    }

    /// Whether it is unavailable now.
    pub fn is_unavailable(&self) -> bool {
        self.0.health.scope() != OutageScope::Nothing
    }

    /// Whether what goes to that endpoint waits, because the proxy that leads to it, or to its token server, is unavailable.
    pub fn makes_wait(&self, endpoint: &Endpoint) -> bool {
        let waits = |url: &Url| self.0.health.makes_wait(&host_of(url)) && self.leads_to(url).is_some();
        self.is_unavailable() && endpoint.urls().any(waits)
    }

    /// Whether an outage has ended: nobody had to wait before.
    pub fn had_outage(&self) -> bool {
        self.0.health.had_outage()
    }

    /// How long what goes to that endpoint, or to its token server, may go out again after it had to wait for the proxy; `None` if it never
    /// had to. Where no proxy is configured any more, it is not known who was reached through it, and everybody counts.
    pub fn back_for(&self, endpoint: &Endpoint) -> Option<Duration> {
        let had_to_wait = |url: &&Url| !self.is_configured() || self.leads_to(url).is_some();
        let back = |url| self.0.health.back_since(&host_of(url));
        let since = endpoint.urls().filter(had_to_wait).filter_map(back).max()?;
        Some(since.elapsed())
    }

    /// Tells when outages begin and end, and what waits meanwhile.
    pub fn outages(&self) -> watch::Receiver<OutageScope> {
        self.0.health.watch()
    }

    /// The proxy that leads there, as far as the name of the host tells.
    fn leads_to(&self, url: &Url) -> Option<Arc<Server>> {
        let server = (*self.0.server.get()).clone()?;
        (!server.is_direct(url.host_str().unwrap_or_default())).then_some(server)
    }

    /// The proxy that leads to these addresses of that host.
    pub(super) fn for_addresses(&self, host: &str, addresses: &[IpAddr]) -> Option<Arc<Server>> {
        let server = (*self.0.server.get()).clone()?;
        server.is_for(host, addresses).then_some(server)
    }

    /// A connection to one of these addresses of `host`, by the first that the proxy reaches; IPv4 first, because many proxies have no
    /// IPv6.
    ///
    /// # Errors
    /// What the proxy said of the first address, or that it is unavailable.
    pub(super) async fn connect(
        &self,
        server: &Arc<Server>,
        host: &str,
        mut addresses: Vec<IpAddr>,
        port: u16,
    ) -> Result<Connection, NoTunnel> {
        addresses.sort_by_key(IpAddr::is_ipv6);
        let host = format!("{host}:{port}");
        let mut first = None;
        for address in addresses {
            let target = SocketAddr::new(address, port).to_string();
            match self.tunnel(server, &host, &target).await {
                Err(NoTunnel::Target(reason)) => first = first.or(Some(reason)),
                done => return done,
            }
        }
        Err(NoTunnel::Target(
            first.unwrap_or_else(|| "it has no address".to_owned()),
        ))
    }

    async fn tunnel(&self, server: &Arc<Server>, host: &str, target: &str) -> Result<Connection, NoTunnel> {
        let health = &self.0.health;
        let asked = Asked {
            host,
            target: Some(target),
            began: Instant::now(),
        };
        let tunnel = connect::tunnel(server, target).await;
        if !matches!(tunnel, Err(TunnelError::Proxy(_))) {
            health.answered(&server.name, asked);
        }
        let reason = match tunnel {
            Ok(transport) => return Ok(transport),
            Err(TunnelError::Status(status)) => format!("the proxy answered {status} to CONNECT"),
            Err(TunnelError::SpokeFirst) => "the other side spoke before the request".to_owned(),
            Err(TunnelError::Proxy(fault)) if fault.broke() && health.note_break_off(asked) => {
                "the proxy breaks off CONNECT to this host, and answers for others".to_owned()
            }
            Err(TunnelError::Proxy(fault)) => {
                return Err(NoTunnel::Unavailable(self.report_fault(server, &fault, asked)));
            }
        };
        Err(NoTunnel::Target(reason))
    }

    /// Notes a fault of the proxy and has it asked until it works. Returns the reason.
    fn report_fault(&self, server: &Arc<Server>, fault: &Fault, asked: Asked<'_>) -> String {
        let current = self.0.server.get();
        let is_current = current.as_ref().as_ref().is_some_and(|now| Arc::ptr_eq(now, server));
        if is_current && self.0.health.failed(&server.name, fault, asked) {
            tokio::spawn(self.clone().probe());
        }
        format!("the proxy {} {fault}", server.name)
    }

    /// Asks whether it is the proxy's fault that a request to `url` got no response, which was begun then. Returns the reason, if so.
    pub(super) async fn diagnose(&self, url: &Url, begun: Instant) -> Option<String> {
        let server = self.leads_to(url)?;
        let health = &self.0.health;
        let (host, began) = (host_of(url), Instant::now());
        let asked = Asked {
            host: &host,
            target: None,
            began,
        };
        // One request answers the question for all that wait.
        let _asking = health.asking().await;
        if let Some(outage) = health.meet_outage(asked) {
            return Some(outage.reason);
        }
        if health.may_have_met_outage(&host, begun) {
            return Some(format!("the proxy {} did not work meanwhile", server.name));
        }
        if health.has_reacted_since(began) {
            return None;
        }
        match probe::responds_promptly(&server).await {
            Err(fault) if !health.has_answered_another(asked) => Some(self.report_fault(&server, &fault, asked)),
            Err(_) => None,
            Ok(()) => {
                health.reacted();
                None
            }
        }
    }
}

/// `HOST:PORT`.
fn host_of(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}
