//! Looking names up, by the system's hosts file, name servers and search rules.
//!
//! Not with `getaddrinfo`, which can't be called off: each lookup holds a thread until the name server answers or the system gives
//! up, and a few hundred names whose server never answers take all threads, and with them everybody's deliveries.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use parking_lot::Mutex;

use super::resolve::Lookup;

/// What the system says about names.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// A lookup takes this long at most.
const LIMIT: Duration = Duration::from_secs(5);

/// For one question to one server: there is time for another.
const QUESTION: Duration = Duration::from_secs(2);

/// An address is asked for again after this long at the latest, however long its owner says it holds.
const HOLDS: Duration = Duration::from_secs(300);

/// The same for a name that does not exist: somebody may be about to create it.
const IS_MISSING: Duration = Duration::from_secs(10);

/// Answers that are remembered, at most.
const REMEMBERED: u64 = 1_024;

/// A resolver, and when the files that it was made from were last changed.
type Made = (Vec<Option<SystemTime>>, TokioResolver);

/// Looks names up as the system is configured, also where that changes.
pub fn system_lookup() -> Lookup {
    let made: Arc<Mutex<Option<Made>>> = Arc::default();
    Arc::new(move |name| {
        let resolver = current(&made);
        async move { find(resolver?, &name).await }.boxed()
    })
}

async fn find(resolver: TokioResolver, name: &str) -> io::Result<Vec<IpAddr>> {
    match tokio::time::timeout(LIMIT, resolver.lookup_ip(name)).await {
        Ok(Ok(found)) => Ok(found.iter().collect()),
        Ok(Err(error)) => Err(io::Error::other(readable(&error))),
        Err(_) => Err(io::Error::other(NO_RESPONSE)),
    }
}

const NO_RESPONSE: &str = "no name server responds";

/// What failed, in words that name no host.
fn readable(error: &NetError) -> String {
    match error {
        NetError::Timeout | NetError::NoConnections => NO_RESPONSE.into(),
        NetError::Dns(DnsError::NoRecordsFound(_)) => "no such host".into(),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the name server says {code}"),
        _ => "the name server's response makes no sense, or it can't be reached".into(),
    }
}

fn current(made: &Mutex<Option<Made>>) -> io::Result<TokioResolver> {
    let changed = |file| fs::metadata(file).and_then(|file| file.modified()).ok();
    let changed: Vec<_> = FILES.into_iter().map(changed).collect();
    let mut made = made.lock();
    if let Some((since, resolver)) = &*made
        && *since == changed
    {
        return Ok(resolver.clone());
    }
    let (config, options) = hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|_| {
        // As the system does without that file.
        let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        (
            ResolverConfig::from_parts(None, Vec::new(), vec![local]),
            ResolverOpts::default(),
        )
    });
    let resolver = resolver(config, options)?;
    *made = Some((changed, resolver.clone()));
    Ok(resolver)
}

fn resolver(config: ResolverConfig, mut options: ResolverOpts) -> io::Result<TokioResolver> {
    options.timeout = options.timeout.min(QUESTION);
    // The guard checks all of them.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = REMEMBERED;
    options.positive_max_ttl = Some(HOLDS);
    options.negative_max_ttl = Some(IS_MISSING);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use hickory_resolver::config::ConnectionConfig;
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server that knows every name, but that `missing.test` does not exist; of `silent…` it says nothing.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((_, asker)) = socket.recv_from(&mut packet).await {
                let name = packet[13..].to_vec();
                if name.starts_with(b"silent") {
                    continue;
                }
                // The question ends after the name, its type and its class; what follows in the request is left out.
                let end = 12 + packet[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let is_v4 = packet[end - 3] == 1;
                let mut response = packet[..end].to_vec();
                let (code, answers) = match name.starts_with(b"missing") {
                    true => (3, 0),
                    false => (0, u8::from(is_v4)),
                };
                response[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
                if answers == 1 {
                    response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 8, 8, 8, 8]);
                }
                socket.send_to(&response, asker).await.unwrap();
            }
        });
        address
    }

    fn asks(server: SocketAddr) -> TokioResolver {
        let mut udp = ConnectionConfig::udp();
        udp.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![udp]);
        resolver(
            ResolverConfig::from_parts(None, Vec::new(), vec![server]),
            ResolverOpts::default(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_name_is_found_or_does_not_exist() {
        let resolver = asks(name_server().await);
        let found = find(resolver.clone(), "receiver.test").await.unwrap();
        assert_eq!(found, [IpAddr::from([8, 8, 8, 8])]);
        let error = find(resolver, "missing.test").await.unwrap_err();
        assert_eq!(error.to_string(), "no such host");
    }

    #[tokio::test]
    async fn names_whose_server_never_answers_keep_no_other_from_being_found_and_end_in_time() {
        let resolver = asks(name_server().await);
        let silent = |n| {
            let resolver = resolver.clone();
            tokio::spawn(async move { find(resolver, &format!("silent-{n}.test")).await })
        };
        let silent: Vec<_> = (0..100).map(silent).collect();
        find(resolver.clone(), "receiver.test").await.unwrap();
        assert!(silent.iter().all(|lookup| !lookup.is_finished()));
        for lookup in silent {
            assert_eq!(lookup.await.unwrap().unwrap_err().to_string(), NO_RESPONSE);
        }
    }

    #[tokio::test]
    async fn the_hosts_file_counts() {
        let found = system_lookup()("localhost".into()).await.unwrap();
        assert!(found.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
    }
}
