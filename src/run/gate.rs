//! Which endpoints may be sent to now: what the delivery queue asks before each request, and the fetcher before each read.

use std::sync::Arc;

use bson::DateTime;

use super::Engine;
use crate::cluster::{Cluster, ProxyFault};
use crate::dispatch::{ConfiguredPace, EndpointState, Gate, Overview};
use crate::mail::MOST_CONNECTIONS;
use crate::model::{EndpointKey, earlier};
use crate::notices::Episodes;
use crate::operations::Holds;
use crate::platform::{Directory, Found};
use crate::sender::{OutageScope, Proxy};

/// Which endpoints this instance may send to, and how fast their configuration allows it.
pub(super) struct EndpointGate {
    pub(super) cluster: Cluster,
    pub(super) directory: Directory,
    pub(super) holds: Holds,
    pub(super) episodes: Episodes,
    pub(super) proxy: Proxy,
}

impl Gate for EndpointGate {
    fn may_begin(&self, endpoint: &EndpointKey) -> bool {
        let now = self.cluster.now();
        let is_suspended = || self.episodes.suspended(endpoint, now) == Some(false);
        self.cluster.may_begin(endpoint)
            && !self.holds.is_held(endpoint, now)
            && !is_suspended()
            && !waits_for_proxy(&self.proxy, &self.directory, endpoint)
    }

    fn configured(&self, endpoint: &EndpointKey) -> ConfiguredPace {
        if endpoint.is_email() {
            return ConfiguredPace {
                concurrency: Some(MOST_CONNECTIONS),
                rate: None,
            };
        }
        let endpoint = self.directory.endpoint(endpoint);
        endpoint.map_or_else(ConfiguredPace::default, |endpoint| ConfiguredPace {
            concurrency: endpoint.concurrency.map(|n| n as usize),
            rate: endpoint.rate_limit,
        })
    }
}

/// What the fetcher asks.
pub(super) struct FetcherOverview(pub(super) Arc<Engine>);

impl Overview for FetcherOverview {
    fn judge(&self, endpoint: &EndpointKey) -> EndpointState {
        let engine = &self.0;
        let state = engine.endpoint_state(endpoint);
        if engine.endpoint_states.note(endpoint, &state) {
            engine.queue.begin_gently(endpoint);
            engine.served_again.add(endpoint.clone());
        }
        state
    }

    fn has_other_instances(&self) -> bool {
        self.0.cluster.has_others()
    }
}

/// Whether what goes to the endpoint waits for the proxy.
pub(super) fn waits_for_proxy(proxy: &Proxy, directory: &Directory, endpoint: &EndpointKey) -> bool {
    proxy.is_unavailable() && matches!(directory.find(endpoint), Found::Served(endpoint) if proxy.makes_wait(&endpoint))
}

/// What the heartbeat tells of the proxy.
pub(super) fn proxy_fault(proxy: &Proxy, now: DateTime) -> Option<ProxyFault> {
    let outage = proxy.outage()?;
    Some(ProxyFault {
        since: earlier(now, outage.lasts()),
        is_for_all: *proxy.outages().borrow() == OutageScope::Everything,
        reason: outage.reason,
    })
}
