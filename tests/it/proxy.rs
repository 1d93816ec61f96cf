//! Deliveries through a forward proxy: to the address that was checked, and whose fault it is when that fails.

mod addresses;
mod connect;
mod faults;
mod outage;
mod own_certificates;
mod squid;
mod status;
pub mod support;
mod tls;

use certhookd::model::Outcome;
use certhookd::sender::{OutageScope, Proxy};

/// Why nothing was attempted.
fn unavailable(outcome: Outcome) -> String {
    match outcome {
        Outcome::ProxyUnavailable { reason } => reason,
        other => panic!("not the proxy's fault: {other:?}"),
    }
}

/// Waits until the outage has ended.
async fn back(proxy: &Proxy) {
    let mut outages = proxy.outages();
    let ended = outages.wait_for(|scope| *scope == OutageScope::Nothing);
    tokio::time::timeout(crate::fixture::LIMIT, ended)
        .await
        .unwrap()
        .unwrap();
}
