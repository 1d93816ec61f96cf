//! The forward proxy, as its URL describes it, and who is reached without it.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// Where connections to endpoints are asked for. `Debug` shows neither user nor password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyServer {
    /// `http://HOST:PORT` or, where the way to the proxy itself is encrypted, `https://HOST:PORT`.
    pub uri: Uri,
    /// `HOST:PORT`, for people.
    pub name: String,
    /// The value of `Proxy-Authorization`, marked sensitive, if the proxy wants a login.
    pub authorization: Option<HeaderValue>,
}

impl ProxyServer {
    /// Reads `http://USER:PASSWORD@HOST:PORT`; without a port it is that of the scheme.
    ///
    /// # Errors
    /// What is wrong, without quoting anything.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "not a URL")?;
        let scheme = match url.scheme() {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            _ => return Err("its scheme is another"),
        };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err("it names no host");
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("it has a path");
        }
        let name = format!("{host}:{port}");
        let authority: Authority = name.parse().map_err(|_| "its host is none")?;
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query("/");
        Ok(Self {
            uri: uri.build().map_err(|_| "not a URL")?,
            name,
            authorization: authorization(&url)?,
        })
    }
}

/// HTTP Basic (RFC 7617).
fn authorization(url: &Url) -> Result<Option<HeaderValue>, &'static str> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decode = |text| percent_decode_str(text).collect::<Vec<u8>>();
    let (user, password) = (decode(url.username()), decode(url.password().unwrap_or_default()));
    if user.is_empty() {
        return Err("it has a password without a user");
    }
    if user.contains(&b':') {
        return Err("a user name holds no colon");
    }
    let login = [user, password].join(&b':');
    let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(login)));
    let mut value = value.map_err(|_| "its user and password make no header")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Who is reached without the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy {
    networks: Vec<IpNet>,
    hosts: Vec<String>,
    /// Each begins with a dot.
    suffixes: Vec<String>,
}

impl NoProxy {
    /// Reads one entry: an address or a network, `.DOMAIN` for all names below it, or a host.
    ///
    /// # Errors
    /// It is none of these.
    pub(super) fn add(&mut self, entry: &str) -> Result<(), ()> {
        let address = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(network) = entry.parse() {
            self.networks.push(network);
        } else if let Ok(address) = address.parse::<IpAddr>() {
            self.networks.push(address.into());
        } else {
            let name = entry.strip_prefix('.').unwrap_or(entry);
            let name = match Host::parse(name.trim_end_matches('.')) {
                Ok(Host::Domain(name)) if !name.is_empty() && !name.contains('*') => name,
                _ => return Err(()),
            };
            match entry.starts_with('.') {
                true => self.suffixes.push(format!(".{name}")),
                false => self.hosts.push(name),
            }
        }
        Ok(())
    }

    /// Whether that name is listed, or a domain above it.
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts.contains(&host) || self.suffixes.iter().any(|suffix| host.ends_with(suffix))
    }

    /// Whether that host is reached without the proxy; `None` where its addresses decide.
    pub fn lists(&self, host: &Host<&str>) -> Option<bool> {
        match host {
            Host::Domain(name) if self.names(name) => Some(true),
            Host::Domain(_) => self.networks.is_empty().then_some(false),
            Host::Ipv4(address) => Some(self.covers(&[IpAddr::V4(*address)])),
            Host::Ipv6(address) => Some(self.covers(&[IpAddr::V6(*address)])),
        }
    }

    /// Whether all of these addresses, at least one, are in a network that is listed.
    pub fn covers(&self, addresses: &[IpAddr]) -> bool {
        let is_listed = |address: &IpAddr| {
            let address = address.to_canonical();
            self.networks.iter().any(|network| network.contains(&address))
        };
        !addresses.is_empty() && addresses.iter().all(is_listed)
    }
}
