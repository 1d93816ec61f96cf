//! Names to addresses, through the guard: the addresses that were checked are the ones that are used.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::guard::{self, Blocked};
use super::{Policy, literal};

/// Looks a name up: see `lookup` in production, a table in tests.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Why a name gives no address to connect to.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Unresolved {
    /// One of its addresses is refused. All are, then: otherwise luck would decide.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The lookup failed.
    #[error("dns: {0}")]
    Lookup(Arc<io::Error>),
    /// The name exists and has no address.
    #[error("dns: the name has no address")]
    NoAddress,
}

type Found = Result<Arc<[IpAddr]>, Unresolved>;
type Flight = Shared<BoxFuture<'static, Found>>;

/// Gives connections their addresses.
#[derive(Clone)]
pub(super) struct Resolver {
    policy: Arc<Policy>,
    lookup: Lookup,
    in_flight: Arc<Mutex<HashMap<String, Flight>>>,
}

impl Resolver {
    pub(super) fn new(policy: Arc<Policy>, lookup: Lookup) -> Self {
        Self {
            policy,
            lookup,
            in_flight: Arc::default(),
        }
    }

    /// The addresses of a URL's host, all of which have passed the guard.
    ///
    /// # Errors
    /// [`Unresolved`], also if one of them does not pass.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let addresses = match literal(host) {
            Some(address) => vec![address],
            None => self.find(host).await?.to_vec(),
        };
        for address in &addresses {
            guard::check_addr(*address, &self.policy)?;
        }
        Ok(addresses)
    }

    /// Joins the lookup of `name` that is under way, or starts one. A name whose server hangs so has one lookup at a time, however
    /// many endpoints it has.
    fn find(&self, name: &str) -> Flight {
        let mut in_flight = self.in_flight.lock();
        if let Some(flight) = in_flight.get(name) {
            return flight.clone();
        }
        let flight = self.start(name.to_owned());
        in_flight.insert(name.to_owned(), flight.clone());
        flight
    }

    fn start(&self, name: String) -> Flight {
        let (lookup, in_flight) = ((self.lookup)(name.clone()), Arc::clone(&self.in_flight));
        // A task of its own: it ends, and clears its entry, also when every attempt that waited for it has timed out.
        let task = tokio::spawn(async move {
            let found = lookup.await;
            in_flight.lock().remove(&name);
            match found {
                Ok(addresses) if addresses.is_empty() => Err(Unresolved::NoAddress),
                Ok(addresses) => Ok(addresses.into()),
                Err(error) => Err(Unresolved::Lookup(Arc::new(error))),
            }
        });
        task.map(|ended| ended.unwrap_or_else(|error| Err(Unresolved::Lookup(Arc::new(io::Error::other(error))))))
            .boxed()
            .shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn policy() -> Arc<Policy> {
        Arc::new(Policy {
            allow_http: false,
            allow_networks: Vec::new(),
            source: "beedeez".into(),
            keep_responses: true,
        })
    }

    const NAME: &str = "receiver.test";

    fn resolver(addresses: &[&str]) -> Resolver {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Resolver::new(
            policy(),
            Arc::new(move |_| std::future::ready(Ok(addresses.clone())).boxed()),
        )
    }

    #[tokio::test]
    async fn a_name_with_one_good_and_one_bad_address_is_refused() {
        for mixed in [["8.8.8.8", "127.0.0.1"], ["fe80::1", "8.8.8.8"]] {
            let error = resolver(&mixed).addresses(NAME).await.unwrap_err();
            assert!(matches!(error, Unresolved::Blocked(Blocked::Address { .. })), "{error}");
        }
        let found = resolver(&["8.8.8.8", "2606:4700::1"]).addresses(NAME).await.unwrap();
        assert_eq!(
            found,
            ["8.8.8.8".parse::<IpAddr>().unwrap(), "2606:4700::1".parse().unwrap()]
        );
    }

    #[tokio::test]
    async fn a_name_without_address_and_a_failed_lookup_are_dns_failures() {
        assert_eq!(
            resolver(&[]).addresses(NAME).await.unwrap_err().to_string(),
            "dns: the name has no address"
        );
        let failing: Lookup = Arc::new(|_| std::future::ready(Err(io::Error::other("server failure"))).boxed());
        let error = Resolver::new(policy(), failing).addresses(NAME).await.unwrap_err();
        assert_eq!(error.to_string(), "dns: server failure");
    }

    #[tokio::test]
    async fn a_name_whose_server_hangs_holds_one_lookup_and_is_asked_anew_afterwards() {
        let (lookups, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let lookup: Lookup = {
            let (lookups, answer) = (Arc::clone(&lookups), Arc::clone(&answer));
            Arc::new(move |_| {
                let (lookups, answer) = (Arc::clone(&lookups), Arc::clone(&answer));
                async move {
                    lookups.fetch_add(1, Ordering::SeqCst);
                    answer.notified().await;
                    Ok(vec![IpAddr::from([8, 8, 8, 8])])
                }
                .boxed()
            })
        };
        let resolver = Resolver::new(policy(), lookup);
        drop(resolver.find(NAME));
        let (first, second) = (resolver.find(NAME), resolver.find(NAME));
        answer.notify_one();
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
        answer.notify_one();
        resolver.addresses(NAME).await.unwrap();
        assert_eq!(lookups.load(Ordering::SeqCst), 2);
    }
}
