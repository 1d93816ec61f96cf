//! Asking the proxy whether it works.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};
use tokio::time::{Instant, sleep, timeout};

use super::connect::{self, Fault, Refused};
use super::server::Server;
use super::{NoTunnel, Proxy};

/// How soon a proxy that works responds by itself.
pub(super) const PROMPTLY: Duration = Duration::from_secs(1);

/// How long an answer to CONNECT is waited for that tells whether the login is taken: that takes no connection to the target.
const LOGIN: Duration = Duration::from_secs(2);

/// The pause before the proxy is asked again: doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What `certhookd check` finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyCheck {
    /// It works, as this tells.
    Good(String),
    /// It works, and refuses the one target that was asked for.
    Refuses(String),
    /// It wants a login, or another one.
    Login(String),
    /// It can't be reached, or does not respond.
    Unreachable(String),
}

/// Whether the proxy responds to a request that no target has a part in.
pub(super) async fn responds(server: &Server, limit: Duration) -> Result<(), Fault> {
    let asked = connect::ask(server, Method::OPTIONS, Uri::from_static("*"), &server.name);
    timeout(limit, asked).await.map_err(|_| Fault::Silent)?.map(drop)
}

/// Whether the proxy works, as far as that can be told: if `target` is known, by CONNECT to it.
async fn works(server: &Server, target: &str) -> Result<(), Fault> {
    if target.is_empty() {
        return responds(server, LOGIN).await;
    }
    match timeout(LOGIN, connect::tunnel(server, target)).await {
        Ok(Err(Refused::Proxy(fault))) if !fault.broke() => Err(fault),
        // It may be the target's.
        Ok(Err(Refused::Proxy(_))) | Err(_) => responds(server, PROMPTLY).await,
        Ok(Ok(_) | Err(Refused::Status(_) | Refused::SpokeFirst)) => Ok(()),
    }
}

impl Proxy {
    /// Notes a fault of the proxy that an attempt has met which began then, and has it asked until it works. Returns the reason.
    pub(super) fn unavailable(&self, server: &Arc<Server>, fault: Fault, target: &str, began: Instant) -> String {
        let reason = format!("the proxy {} {fault}", server.name);
        let is_current = self
            .0
            .server
            .get()
            .as_ref()
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, server));
        if is_current && self.0.health.failed(&server.name, &reason, target, began) {
            tokio::spawn(self.clone().probe());
        }
        reason
    }

    /// Asks the proxy until it works, one connection at a time.
    async fn probe(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = sleep(pause.mul_f64(1.0 - 0.25 * fastrand::f64()));
            tokio::select! {
                () = wait => {}
                () = self.0.health.replaced() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            let Some(server) = (*self.0.server.get()).clone() else {
                return self.0.health.ended(None);
            };
            match works(&server, &self.0.health.target()).await {
                Ok(()) => return self.0.health.ended(Some(&server.name)),
                Err(fault) => self.0.health.goes_on(format!("the proxy {} {fault}", server.name)),
            }
        }
    }

    /// Tries it once: by CONNECT to `target`, if there is one to ask for.
    pub async fn check(&self, target: Option<&str>) -> Option<ProxyCheck> {
        let server = (*self.0.server.get()).clone()?;
        let name = &server.name;
        let Some(target) = target else {
            return Some(match responds(&server, LOGIN).await {
                Ok(()) => ProxyCheck::Good(format!("{name} responds; there is no endpoint to ask it for")),
                Err(fault) => ProxyCheck::Unreachable(format!("{name} {fault}")),
            });
        };
        let asked = timeout(LOGIN, connect::tunnel(&server, target)).await;
        Some(match asked {
            Ok(Ok(_)) => ProxyCheck::Good(format!("{name} leads to {target}")),
            Ok(Err(Refused::SpokeFirst)) => ProxyCheck::Good(format!("{name} leads to {target}")),
            Ok(Err(Refused::Status(status))) => {
                ProxyCheck::Refuses(format!("{name} answers {status} to CONNECT {target}"))
            }
            Ok(Err(Refused::Proxy(fault @ Fault::Login { .. }))) => ProxyCheck::Login(format!("{name} {fault}")),
            Ok(Err(Refused::Proxy(fault))) => ProxyCheck::Unreachable(format!("{name} {fault}")),
            Err(_) => match responds(&server, PROMPTLY).await {
                Ok(()) => ProxyCheck::Refuses(format!("{name} responds, but not within 2 s to CONNECT {target}")),
                Err(fault) => ProxyCheck::Unreachable(format!("{name} {fault}")),
            },
        })
    }
}

impl NoTunnel {
    /// Why nothing was attempted, if it is the proxy's fault.
    pub(in crate::sender) fn unavailable(&self) -> Option<&str> {
        match self {
            Self::Unavailable(reason) => Some(reason),
            Self::Target(_) => None,
        }
    }
}
