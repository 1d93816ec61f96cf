//! The forward proxy that endpoints and token servers are reached through, and whether it works.
//!
//! **Whose fault it is.** The proxy's own faults are no endpoint's: it can't be reached, it wants a login, it breaks off before it has
//! answered CONNECT. Then all that goes through it waits, and it is asked until it answers. A status other than 407 is about the
//! endpoint, and that endpoint's failure: proxies answer 502 to 504 where the target is dead, and 403 where it is forbidden.
//!
//! What one endpoint could cause must not hold the others. So two rules:
//! * A timeout, or a connection that broke, is the endpoint's if the proxy responds at that moment to a request that no endpoint has a
//!   part in (`OPTIONS *`, any status), else the proxy's.
//! * A proxy that breaks off in the midst of CONNECT is at fault the first time. If it responds otherwise, and breaks off again for the
//!   same target, that is the endpoint's failure.

mod connect;
mod health;
mod probe;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::connect::{Refused, Transport};
use self::health::Health;
use self::server::Server;
use super::lookup::system_lookup;
use super::resolve::Lookup;
use crate::config::{NoProxy, ProxyServer};
use crate::model::Reloadable;
use crate::platform::{Auth, Endpoint};

pub(super) use self::connect::Transport as Connection;
pub use self::health::ProxyOutage;
pub use self::probe::ProxyCheck;

/// The proxy, if there is one. Clones are the same.
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

    /// From now on through this one. An outage goes on until it is known that this one works.
    ///
    /// # Errors
    /// As [`Proxy::new`]; then nothing has changed.
    pub fn replace(&self, server: Option<ProxyServer>, no_proxy: NoProxy) -> Result<(), rustls::Error> {
        let server = Server::new(server, no_proxy, &self.0.lookup)?;
        self.0.server.set(server);
        self.0.health.notify_replaced();
        Ok(())
    }

    /// Whether there is one.
    pub fn is_configured(&self) -> bool {
        self.0.server.get().is_some()
    }

    /// The outage that lasts, if one does.
    pub fn outage(&self) -> Option<ProxyOutage> {
        self.0.health.outage()
    }

    /// Whether it is unavailable now.
    pub fn is_unavailable(&self) -> bool {
        self.0.health.is_unavailable()
    }

    /// Whether what goes to that endpoint waits, because it, or its token server, is reached through a proxy that is unavailable.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        let token_url = match &endpoint.auth {
            Auth::OAuth2(credentials) => Some(&credentials.token_url),
            _ => None,
        };
        let mut urls = std::iter::once(&endpoint.url).chain(token_url);
        self.is_unavailable() && urls.any(|url| self.leads_to(url.host_str().unwrap_or_default()).is_some())
    }

    /// How long it has worked again, after an outage.
    pub fn back_for(&self) -> Option<Duration> {
        self.0.health.back_since().map(|since| since.elapsed())
    }

    /// Sees when an outage begins (`true`) and ends.
    pub fn outages(&self) -> watch::Receiver<bool> {
        self.0.health.watch()
    }

    /// The proxy that leads to that host, as far as its name tells.
    fn leads_to(&self, host: &str) -> Option<Arc<Server>> {
        let server = (*self.0.server.get()).clone()?;
        (!server.is_direct(host)).then_some(server)
    }

    /// The proxy that leads to these addresses of that host.
    pub(super) fn for_addresses(&self, host: &str, addresses: &[IpAddr]) -> Option<Arc<Server>> {
        let server = (*self.0.server.get()).clone()?;
        server.is_for(host, addresses).then_some(server)
    }

    /// A connection to one of these addresses, by the first that the proxy reaches; IPv4 first, because many proxies have no IPv6.
    ///
    /// # Errors
    /// What the proxy said of the first address, or that it is unavailable.
    pub(super) async fn connect(
        &self,
        server: &Arc<Server>,
        mut addresses: Vec<IpAddr>,
        port: u16,
    ) -> Result<Transport, NoTunnel> {
        addresses.sort_by_key(IpAddr::is_ipv6);
        let mut first = None;
        for address in addresses {
            let target = SocketAddr::new(address, port).to_string();
            match self.tunnel(server, &target).await {
                Err(NoTunnel::Target(reason)) => first = first.or(Some(reason)),
                done => return done,
            }
        }
        Err(NoTunnel::Target(
            first.unwrap_or_else(|| "it has no address".to_owned()),
        ))
    }

    async fn tunnel(&self, server: &Arc<Server>, target: &str) -> Result<Transport, NoTunnel> {
        let began = Instant::now();
        let refused = match connect::tunnel(server, target).await {
            Ok(transport) => {
                self.0.health.answered(target);
                return Ok(transport);
            }
            Err(refused) => refused,
        };
        match refused {
            Refused::Status(status) => {
                self.0.health.answered(target);
                Err(NoTunnel::Target(format!("the proxy answered {status} to CONNECT")))
            }
            Refused::SpokeFirst => {
                self.0.health.answered(target);
                Err(NoTunnel::Target("the other side spoke before the request".to_owned()))
            }
            Refused::Proxy(fault) if fault.broke() && self.0.health.breaks_off_again(target, began) => Err(
                NoTunnel::Target("the proxy breaks off CONNECT to this address, and responds otherwise".to_owned()),
            ),
            Refused::Proxy(fault) => Err(NoTunnel::Unavailable(self.unavailable(server, fault, target, began))),
        }
    }

    /// Whether it is the proxy's fault that an attempt to reach `host` got no response: the reason, if so.
    pub(super) async fn is_at_fault(&self, host: &str) -> Option<String> {
        let server = self.leads_to(host)?;
        let began = Instant::now();
        // One asks for all that wait.
        let _asking = self.0.health.asking().await;
        if let Some(outage) = self.outage() {
            return Some(outage.to_string());
        }
        if self.0.health.has_answered_since(began) {
            return None;
        }
        match probe::responds(&server, probe::PROMPTLY).await {
            Ok(()) => {
                self.0.health.responded();
                None
            }
            Err(fault) => Some(self.unavailable(&server, fault, "", began)),
        }
    }
}
