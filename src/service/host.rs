//! Who may ask a listener on a loopback address: a browser may show a page whose host name was made to lead to this machine (DNS rebinding), and that page
//! is not to read what is served here.

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Answers 421 where the request's `Host` is a name other than `localhost`. An address can't be made to lead elsewhere, and what
/// sends no `Host` is no browser.
pub(super) async fn refuse_names(request: Request, next: Next) -> Response {
    if is_refused(request.headers()) {
        let why = "ask by an IP address or as localhost\n";
        return (StatusCode::MISDIRECTED_REQUEST, why).into_response();
    }
    next.run(request).await
}

fn is_refused(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return false };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_none_or(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host.parse::<std::net::IpAddr>().is_err() && !host.eq_ignore_ascii_case("localhost")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        is_refused(&headers)
    }

    #[test]
    fn addresses_and_localhost_are_served_and_names_are_not() {
        for host in [
            "127.0.0.1:9464",
            "10.0.0.7",
            "[::1]:9464",
            "[fe80::1]",
            "localhost",
            "LocalHost:9464",
        ] {
            assert!(!refused(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
            "[::1",
        ] {
            assert!(refused(host), "{host}");
        }
        assert!(!is_refused(&HeaderMap::new()));
    }
}
