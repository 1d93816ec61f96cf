//! No request to an address that isn't public: by notation, by name, by redirect, by proxy variable.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certhookd::model::Outcome;
use certhookd::sender::{Blocked, Client, Lookup, Policy, check_addr, check_url};
use futures_util::FutureExt;
use url::Url;

use crate::sender::support::{self, delivered, endpoint, failure, message, now};

pub(crate) fn strict() -> Policy {
    Policy {
        allow_networks: Vec::new(),
        ..support::policy()
    }
}

fn refusal(url: &str) -> Option<String> {
    check_url(&Url::parse(url).unwrap(), &strict())
        .err()
        .map(|refused| refused.to_string())
}

/// Notation, host, and what the reason names.
pub(crate) const BLOCKED: [(&str, &str, &str); 56] = [
    ("dotted", "127.0.0.1", "loopback"),
    ("decimal", "2130706433", "loopback"),
    ("octal", "0177.0.0.1", "loopback"),
    ("hexadecimal", "0x7f000001", "loopback"),
    ("hexadecimal parts", "0x7f.0.0.0x1", "loopback"),
    ("short", "127.1", "loopback"),
    ("shorter", "0", "unspecified"),
    ("final dot", "127.0.0.1.", "loopback"),
    ("full-width digits", "１２７.０.０.１", "loopback"),
    ("percent-encoded", "%31%32%37.0.0.1", "loopback"),
    ("private, 10", "10.1.2.3", "private"),
    ("private, 172.16", "172.31.255.255", "private"),
    ("private, 192.168", "192.168.0.1", "private"),
    ("link-local metadata", "169.254.169.254", "link-local"),
    ("metadata, decimal", "2852039166", "link-local"),
    ("metadata, Alibaba", "100.100.100.200", "metadata"),
    ("metadata, Azure", "168.63.129.16", "metadata"),
    ("carrier-grade NAT", "100.64.0.1", "carrier-grade NAT"),
    ("protocols", "192.0.0.192", "reserved"),
    ("documentation", "192.0.2.1", "documentation"),
    ("documentation 2", "198.51.100.1", "documentation"),
    ("documentation 3", "203.0.113.1", "documentation"),
    ("benchmarking", "198.19.0.1", "benchmarking"),
    ("6to4 relay", "192.88.99.1", "6to4"),
    ("multicast", "224.0.0.1", "multicast"),
    ("reserved", "240.0.0.1", "reserved"),
    ("broadcast", "255.255.255.255", "broadcast"),
    ("IPv6 loopback", "[::1]", "loopback"),
    ("IPv6 unspecified", "[::]", "unspecified"),
    ("mapped", "[::ffff:127.0.0.1]", "loopback"),
    ("mapped, hexadecimal", "[::ffff:7f00:1]", "loopback"),
    ("mapped metadata", "[::ffff:169.254.169.254]", "link-local"),
    ("compatible", "[::127.0.0.1]", "loopback"),
    ("NAT64", "[64:ff9b::7f00:1]", "loopback"),
    ("NAT64, local", "[64:ff9b:1::8.8.8.8]", "NAT64"),
    ("6to4", "[2002:7f00:1::]", "loopback"),
    ("6to4, private", "[2002:c0a8:1::1]", "private"),
    ("Teredo", "[2001:0:808:808::1]", "Teredo"),
    ("unique local", "[fc00::1]", "unique local"),
    ("unique local, upper half", "[fd12:3456::1]", "unique local"),
    ("metadata, AWS IPv6", "[fd00:ec2::254]", "metadata"),
    ("IPv6 link-local", "[fe80::1]", "link-local"),
    ("site-local", "[fec0::1]", "site-local"),
    ("IPv6 multicast", "[ff02::1]", "multicast"),
    ("IPv6 documentation", "[2001:db8::1]", "documentation"),
    ("IPv6 documentation 2", "[3fff::1]", "documentation"),
    ("IPv6 benchmarking", "[2001:2::1]", "benchmarking"),
    ("ORCHID", "[2001:10::1]", "ORCHID"),
    ("ORCHIDv2", "[2001:20::1]", "ORCHID"),
    ("discard", "[100::1]", "discard"),
    ("segment routing", "[5f00::1]", "outside"),
    ("never assigned", "[4000::1]", "outside"),
    ("localhost", "localhost", "localhost"),
    ("localhost in capitals", "LOCALHOST", "localhost"),
    ("localhost, final dot", "localhost.", "localhost"),
    ("below localhost", "a.b.localhost", "localhost"),
];

/// Notation by notation; each is also tried for real, and must fail as refused before a connection is made.
#[tokio::test]
async fn refused_in_any_notation() {
    let client = Client::new(strict()).unwrap();
    for (notation, host, range) in BLOCKED {
        let url = format!("http://{host}:9/");
        let reason = refusal(&url).unwrap_or_else(|| panic!("{notation}: {host} passed"));
        assert!(
            reason.starts_with("address refused: ") && reason.contains(range),
            "{notation}: {reason}"
        );
        let attempt = client.attempt(&endpoint(&url), &message(), now()).await;
        assert_eq!(failure(attempt).reason, reason, "{notation}");
    }
}

#[test]
fn a_zone_makes_no_url() {
    assert!(Url::parse("https://[fe80::1%25eth0]/").is_err());
    assert!(Url::parse("https://[fe80::1%eth0]/").is_err());
}

#[test]
fn public_addresses_pass_also_inside_others() {
    for host in [
        "8.8.8.8",
        "[2606:4700::1]",
        "[::ffff:8.8.8.8]",
        "[64:ff9b::808:808]",
        "[2002:808:808::1]",
        "a.test",
    ] {
        assert_eq!(refusal(&format!("https://{host}/")), None, "{host}");
    }
}

#[test]
fn allowed_networks_pass_and_nothing_beside_them() {
    let policy = Policy {
        allow_networks: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ..strict()
    };
    let passes = |address: &str| check_addr(address.parse().unwrap(), &policy).is_ok();
    assert!(passes("10.1.2.3") && passes("::ffff:10.1.2.3") && passes("64:ff9b::10.1.2.3") && passes("fd12::1"));
    assert!(!passes("10.2.0.1") && !passes("127.0.0.1") && !passes("::1") && !passes("fc00::1"));
}

#[test]
fn plain_http_needs_permission_and_other_schemes_have_none() {
    let https_only = Policy {
        allow_http: false,
        ..strict()
    };
    let with_http = strict();
    let check = |url: &str, policy| check_url(&Url::parse(url).unwrap(), policy);
    assert_eq!(check("http://receiver.test/", &https_only), Err(Blocked::Scheme));
    assert_eq!(check("https://receiver.test/", &https_only), Ok(()));
    assert_eq!(check("http://receiver.test/", &with_http), Ok(()));
    assert_eq!(check("ftp://receiver.test/", &with_http), Err(Blocked::Scheme));
}

/// Answers the n-th lookup with the n-th list, the last one from then on.
fn answers(lists: &'static [&'static [&'static str]]) -> (Lookup, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let lookup: Lookup = Arc::new(move |_| {
        let list = lists[count.fetch_add(1, Ordering::SeqCst).min(lists.len() - 1)];
        let addresses: Vec<IpAddr> = list.iter().map(|address| address.parse().unwrap()).collect();
        std::future::ready(Ok(addresses)).boxed()
    });
    (lookup, asked)
}

/// Allows what the receiver listens on and nothing else that isn't public.
fn only_loopback_1() -> Policy {
    Policy {
        allow_networks: vec!["127.0.0.1/32".parse().unwrap()],
        ..support::policy()
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_one_good_and_one_bad_address_is_refused() {
    let receiver = support::receiver().await;
    let (lookup, _) = answers(&[&["127.0.0.1", "10.0.0.1"]]);
    let client = Client::with_lookup(only_loopback_1(), lookup).unwrap();
    let url = format!("http://receiver.test:{}/", receiver.port());
    let failed = failure(client.attempt(&endpoint(&url), &message(), now()).await);
    assert_eq!(failed.reason, "address refused: 10.0.0.1 is private");
    assert!(receiver.requests().is_empty());
}

/// The name turns bad after its first lookup. Were it asked again between check and use, the request would go astray.
#[tokio::test]
async fn the_address_that_was_checked_is_the_one_used() {
    let receiver = support::receiver().await;
    let (lookup, asked) = answers(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let client = Client::with_lookup(only_loopback_1(), lookup).unwrap();
    let url = format!("http://receiver.test:{}/", receiver.port());
    delivered(client.attempt(&endpoint(&url), &message(), now()).await);
    assert_eq!((asked.load(Ordering::SeqCst), receiver.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_redirect_to_loopback_is_not_followed() {
    let target = support::receiver().await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {}\r\nContent-Length: 0\r\n", target.url());
        let redirecting = support::answering(&format!("HTTP/1.1 {status} Moved\r\n{location}\r\n")).await;
        let outcome = support::client()
            .attempt(&endpoint(&redirecting), &message(), now())
            .await;
        let failed = failure(outcome);
        assert_eq!(failed.status, Some(status));
        assert_eq!(failed.reason, format!("status {status}, redirects are not followed"));
    }
    assert!(target.requests().is_empty());
}

/// Runs itself again with the variables set: they belong to the process.
#[tokio::test]
async fn proxy_variables_are_not_obeyed() {
    let name = concat!(module_path!(), "::proxy_variables_are_not_obeyed");
    if support::rerun_behind_proxy(name) {
        return;
    }
    let receiver = support::receiver().await;
    let outcome = support::client()
        .attempt(&endpoint(&receiver.url()), &message(), now())
        .await;
    assert!(matches!(outcome, Outcome::Delivered { status: 200, .. }), "{outcome:?}");
}
