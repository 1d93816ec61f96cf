//! Which requests a listener on a loopback address serves: a browser may show a page whose host name was made to lead to this machine
//! (DNS rebinding), and that page
//! must not read what is served here.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The names that are allowed besides `localhost`, in lower case.
#[derive(Clone, Debug)]
pub(super) struct AllowedHosts(Arc<[String]>);

/// Answers 421 where the request's `Host` is a name that is not allowed. An address can't be made to lead elsewhere, and what sends no
/// `Host` is no browser.
pub(super) async fn refuse_names(State(allowed): State<AllowedHosts>, request: Request, next: Next) -> Response {
    if allowed.refuses(request.headers()) {
        let why = "ask by an IP address, as localhost or under a name in service.allowed_hosts\n";
        return (StatusCode::MISDIRECTED_REQUEST, why).into_response();
    }
    next.run(request).await
}

impl AllowedHosts {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.into())
    }

    fn refuses(&self, headers: &HeaderMap) -> bool {
        let Some(host) = headers.get(HOST) else { return false };
        let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        authority.is_none_or(|authority| {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_err() && !self.is_allowed(host)
        })
    }

    fn is_allowed(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        let mut allowed = self.0.iter().map(String::as_str).chain(["localhost"]);
        allowed.any(|allowed| name.eq_ignore_ascii_case(allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        AllowedHosts::new(&["status.example.org".into()]).refuses(&headers)
    }

    #[test]
    fn addresses_localhost_and_allowed_names_are_served_and_others_are_not() {
        for host in [
            "127.0.0.1:9464",
            "10.0.0.7",
            "[::1]:9464",
            "[fe80::1]",
            "localhost",
            "LocalHost:9464",
            "status.example.org",
            "Status.Example.ORG:8443",
            "status.example.org.",
        ] {
            assert!(!refused(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "status.example.org.evil.example",
            "evil.status.example.org",
            "evil@status.example.com",
            "127.0.0.1.evil.example",
            "",
            "a b",
            "[::1",
        ] {
            assert!(refused(host), "{host}");
        }
        assert!(!AllowedHosts::new(&[]).refuses(&HeaderMap::new()));
    }
}
