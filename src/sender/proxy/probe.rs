//! Asking the proxy whether it works.

use std::time::Duration;

use http::{Method, Uri};
use tokio::time::{sleep, timeout};

use super::Proxy;
use super::connect::{self, Fault, TunnelError};
use super::server::Server;

/// How soon a proxy that works responds by itself.
const PROMPTLY: Duration = Duration::from_secs(1);

/// How long an answer to CONNECT is waited for. A login is refused sooner: that takes no connection to the target.
const ANSWER: Duration = Duration::from_secs(2);

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
async fn responds(server: &Server, limit: Duration) -> Result<(), Fault> {
    let asked = connect::ask(server, Method::OPTIONS, Uri::from_static("*"), &server.name);
    timeout(limit, asked).await.map_err(|_| Fault::Silent)?.map(drop)
}

/// Whether the proxy responds [`PROMPTLY`]. One that closes, because it doesn't know such a request, counts as responding.
pub(super) async fn responds_promptly(server: &Server) -> Result<(), Fault> {
    responds(server, PROMPTLY)
        .await
        .or_else(|fault| if fault.broke() { Ok(()) } else { Err(fault) })
}

/// Whether the proxy works, as far as that can be told: if a target is known, by CONNECT to it.
async fn works(server: &Server, target: Option<&String>) -> Result<(), Fault> {
    let Some(target) = target else {
        return responds_promptly(server).await;
    };
    match timeout(ANSWER, connect::tunnel(server, target)).await {
        Ok(Err(TunnelError::Proxy(fault))) => Err(fault),
        Ok(Ok(_) | Err(TunnelError::Status(_) | TunnelError::SpokeFirst)) => Ok(()),
        // The target may be dead.
        Err(_) => responds_promptly(server).await,
    }
}

impl Proxy {
    /// Asks the proxy until it works, one connection at a time, for one target after the other.
    pub(super) async fn probe(self) {
        let health = &self.0.health;
        let Some((number, _)) = health.outage_and_targets() else {
            return;
        };
        let mut pause = FIRST_PAUSE;
        for turn in 0.. {
            tokio::select! {
                () = sleep(pause.mul_f64(1.0 - 0.25 * fastrand::f64())) => {}
                () = health.changed() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            let targets = match health.outage_and_targets() {
                Some((now, targets)) if now == number => targets,
                _ => return,
            };
            let Some(server) = (*self.0.server.get()).clone() else {
                return health.ended(number, None);
            };
            let target = targets.get(turn % targets.len().max(1));
            match works(&server, target).await {
                Ok(()) => return health.ended(number, Some(&server.name)),
                Err(fault) => health.goes_on(number, &server.name, &fault),
            }
        }
    }

    /// Tries it once: by CONNECT to `target`, if there is one to ask for. `None` without a proxy.
    pub async fn check(&self, target: Option<&str>) -> Option<ProxyCheck> {
        let server = (*self.0.server.get()).clone()?;
        let name = &server.name;
        let unreachable = |fault: Fault| ProxyCheck::Unreachable(format!("{name} {fault}"));
        let Some(target) = target else {
            let responds = responds(&server, ANSWER).await;
            return Some(responds.map_or_else(unreachable, |()| {
                ProxyCheck::Good(format!("{name} responds; there is no endpoint to ask it for"))
            }));
        };
        Some(match timeout(ANSWER, connect::tunnel(&server, target)).await {
            Ok(Ok(_) | Err(TunnelError::SpokeFirst)) => ProxyCheck::Good(format!("{name} leads to {target}")),
            Ok(Err(TunnelError::Status(status))) => {
                ProxyCheck::Refuses(format!("{name} answers {status} to CONNECT {target}"))
            }
            Ok(Err(TunnelError::Proxy(fault @ Fault::Login { .. }))) => ProxyCheck::Login(format!("{name} {fault}")),
            Ok(Err(TunnelError::Proxy(fault))) => unreachable(fault),
            Err(_) => responds(&server, PROMPTLY).await.map_or_else(unreachable, |()| {
                ProxyCheck::Refuses(format!("{name} responds, but not within 2 s to CONNECT {target}"))
            }),
        })
    }
}
