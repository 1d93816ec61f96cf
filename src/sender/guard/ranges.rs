//! The ranges that are not public, most specific first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// What the range that holds `address` is for, if requests may not go there.
pub(super) fn refused(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => find(V4.iter().map(|(net, what)| (net.contains(&v4), *what))),
        IpAddr::V6(v6) => {
            let public = GLOBAL_UNICAST.contains(&v6);
            find(V6.iter().map(|(net, what)| (net.contains(&v6), *what)))
                .or_else(|| (!public).then_some("outside the public IPv6 range"))
        }
    }
}

fn find(mut ranges: impl Iterator<Item = (bool, &'static str)>) -> Option<&'static str> {
    ranges.find(|(holds, _)| *holds).map(|(_, what)| what)
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, what: &'static str) -> (Ipv4Net, &'static str) {
    (Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix), what)
}

const fn v6(high: [u16; 4], low: [u16; 4], prefix: u8, what: &'static str) -> (Ipv6Net, &'static str) {
    let [a, b, c, d] = high;
    let [e, f, g, h] = low;
    (Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix), what)
}

const ZERO: [u16; 4] = [0; 4];

const V4: [(Ipv4Net, &str); 18] = [
    v4(0, 0, 0, 0, 8, "unspecified (this network)"),
    v4(10, 0, 0, 0, 8, "private"),
    v4(100, 100, 100, 200, 32, "a cloud metadata address"),
    v4(100, 64, 0, 0, 10, "carrier-grade NAT"),
    v4(127, 0, 0, 0, 8, "loopback"),
    v4(168, 63, 129, 16, 32, "a cloud metadata address"),
    v4(169, 254, 0, 0, 16, "link-local"),
    v4(172, 16, 0, 0, 12, "private"),
    v4(192, 0, 0, 0, 24, "reserved for protocols"),
    v4(192, 0, 2, 0, 24, "documentation"),
    v4(192, 88, 99, 0, 24, "a 6to4 relay"),
    v4(192, 168, 0, 0, 16, "private"),
    v4(198, 18, 0, 0, 15, "benchmarking"),
    v4(198, 51, 100, 0, 24, "documentation"),
    v4(203, 0, 113, 0, 24, "documentation"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(255, 255, 255, 255, 32, "broadcast"),
    v4(240, 0, 0, 0, 4, "reserved"),
];

/// The range from which public addresses are handed out.
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

const V6: [(Ipv6Net, &str); 16] = [
    v6(ZERO, [0, 0, 0, 0], 128, "unspecified"),
    v6(ZERO, [0, 0, 0, 1], 128, "loopback"),
    v6([0x64, 0xff9b, 1, 0], ZERO, 48, "a local NAT64 range"),
    v6([0x100, 0, 0, 0], ZERO, 64, "discard"),
    v6([0x2001, 0, 0, 0], ZERO, 32, "Teredo"),
    v6([0x2001, 2, 0, 0], ZERO, 48, "benchmarking"),
    v6([0x2001, 0x10, 0, 0], ZERO, 28, "ORCHID"),
    v6([0x2001, 0x20, 0, 0], ZERO, 28, "ORCHID"),
    v6([0x2001, 0, 0, 0], ZERO, 23, "reserved for protocols"),
    v6([0x2001, 0xdb8, 0, 0], ZERO, 32, "documentation"),
    v6([0x3fff, 0, 0, 0], ZERO, 20, "documentation"),
    v6([0xfd00, 0xec2, 0, 0], [0, 0, 0, 0x254], 128, "a cloud metadata address"),
    v6([0xfc00, 0, 0, 0], ZERO, 7, "unique local"),
    v6([0xfe80, 0, 0, 0], ZERO, 10, "link-local"),
    v6([0xfec0, 0, 0, 0], ZERO, 10, "site-local"),
    v6([0xff00, 0, 0, 0], ZERO, 8, "multicast"),
];
