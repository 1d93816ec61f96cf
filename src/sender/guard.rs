//! Which addresses requests may go to: public ones, and those that the operator allowed by name.
//!
//! The sources of the ranges are the IANA special-purpose registries for IPv4 and IPv6 (RFC 6890 and its updates). Where
//! a range's meaning is unclear it is refused.

mod ranges;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::Policy;

/// Why no request goes there. Names an address or a scheme, never a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// The address lies in a range that is not public.
    #[error("address refused: {address} is {range}")]
    Address {
        /// The address as it would have been used.
        address: IpAddr,
        /// What the range is for.
        range: &'static str,
    },
    /// `localhost`, or a name below it.
    #[error("address refused: the name localhost is loopback")]
    Localhost,
    /// Not HTTPS, and plain HTTP is not allowed either.
    #[error("address refused: not HTTPS, and `allow_http` is off")]
    Scheme,
    /// A URL that names no host.
    #[error("address refused: no host")]
    NoHost,
}

/// Checks what can be checked before a name is resolved: the scheme, addresses in any notation, and `localhost`.
///
/// # Errors
/// The refusal, if no request may go there. A name that passes is judged again by the addresses that it resolves to.
pub fn check_url(url: &Url, policy: &Policy) -> Result<(), Blocked> {
    if url.scheme() != "https" && !(url.scheme() == "http" && policy.allow_http) {
        return Err(Blocked::Scheme);
    }
    match url.host() {
        Some(Host::Ipv4(address)) => check_addr(address.into(), policy),
        Some(Host::Ipv6(address)) => check_addr(address.into(), policy),
        Some(Host::Domain(name)) if is_localhost(name) => {
            check_addr(Ipv4Addr::LOCALHOST.into(), policy).map_err(|_| Blocked::Localhost)
        }
        Some(Host::Domain(_)) => Ok(()),
        None => Err(Blocked::NoHost),
    }
}

/// Checks one address. An IPv4 address inside an IPv6 one is judged as that IPv4 address.
///
/// # Errors
/// The refusal, if the address is neither public nor within the policy's `allow_networks`.
pub fn check_addr(address: IpAddr, policy: &Policy) -> Result<(), Blocked> {
    let embedded = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => embedded_v4(v6),
    };
    let judged = embedded.map_or(address, IpAddr::V4);
    if policy
        .allow_networks
        .iter()
        .any(|net| net.contains(&address) || net.contains(&judged))
    {
        return Ok(());
    }
    match ranges::refused(judged) {
        Some(range) => Err(Blocked::Address { address, range }),
        None => Ok(()),
    }
}

/// `localhost` and everything below it (RFC 6761), with or without the final dot.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// The IPv4 address that `address` leads to: mapped (`::ffff:0:0/96`), compatible (`::/96`), NAT64 (`64:ff9b::/96`,
/// RFC 6052) or 6to4 (`2002::/16`, RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    if address == Ipv6Addr::UNSPECIFIED || address == Ipv6Addr::LOCALHOST {
        return None;
    }
    let halves = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(halves(high, low))
        }
        _ => None,
    }
}
