//! Token requests go where requests may go, and nowhere else.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certhookd::sender::{Client, Policy};
use futures_util::FutureExt;

use super::support::{Fixture, Receiver, TokenServer, answering, endpoint};
use crate::history::responses::mirror;
use crate::sender::support::{self, delivered, failure, message, now};

/// The receiver's address is allowed; of the addresses that names resolve to, `.test` is it and all others are another.
fn client(allow_http: bool) -> Client {
    let policy = Policy {
        allow_http,
        allow_networks: vec!["127.0.0.1/32".parse().unwrap()],
        ..support::policy()
    };
    let lookup = |name: String| {
        let last = if name.ends_with(".test") { 1 } else { 2 };
        std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, last])])).boxed()
    };
    Client::with_lookup(policy, Arc::new(lookup)).unwrap()
}

async fn reason(client: &Client, token_url: &str) -> String {
    let receiver = Receiver::start().await;
    let endpoint = endpoint(&receiver, token_url);
    let failed = failure(client.attempt(&endpoint, &message(), now()).await);
    assert!(receiver.tokens().is_empty());
    failed.reason
}

#[tokio::test]
async fn a_token_server_at_a_refused_address_is_not_asked() {
    let server = TokenServer::start().await;
    let port = server.port();
    let client = client(true);
    let table = [
        ("127.0.0.2", "127.0.0.2 is loopback"),
        ("2130706434", "127.0.0.2 is loopback"),
        ("[::1]", "::1 is loopback"),
        ("[::ffff:169.254.169.254]", "::ffff:169.254.169.254 is link-local"),
        ("10.0.0.1", "10.0.0.1 is private"),
        ("id.example", "127.0.0.2 is loopback"),
    ];
    for (host, expected) in table {
        let reason = reason(&client, &format!("http://{host}:{port}/token")).await;
        assert!(
            reason.starts_with(&format!("oauth2: token server: address refused: {expected}")),
            "{host}: {reason}"
        );
    }
    assert_eq!(server.count(), 0);

    let receiver = Receiver::start().await;
    let good = endpoint(&receiver, &format!("http://id.test:{port}/token"));
    delivered(client.attempt(&good, &message(), now()).await);
}

#[tokio::test]
async fn plain_http_needs_permission() {
    let server = TokenServer::start().await;
    let refused = format!("http://id.test:{}/token", server.port());
    let receiver = Receiver::start().await;
    let mut endpoint = endpoint(&receiver, &refused);
    endpoint.url = "https://receiver.test:1/".parse().unwrap();
    let failed = failure(client(false).attempt(&endpoint, &message(), now()).await);
    assert_eq!(
        failed.reason,
        "oauth2: token server: address refused: not HTTPS, and `allow_http` is off"
    );
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn no_token_is_asked_for_where_the_endpoint_itself_is_refused() {
    let mut fixture = Fixture::new().await;
    fixture.endpoint.url = "http://10.0.0.1/".parse().unwrap();
    let failed = failure(fixture.attempt().await);
    assert_eq!(failed.reason, "address refused: 10.0.0.1 is private");
    assert_eq!(fixture.server.count(), 0);
}

#[tokio::test]
async fn a_redirect_of_a_token_server_is_not_followed() {
    let target = TokenServer::start().await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {}\r\nContent-Length: 0\r\n", target.url());
        let redirecting = answering(&format!("HTTP/1.1 {status} Moved\r\n{location}\r\n")).await;
        assert_eq!(
            reason(&client(true), &redirecting).await,
            format!("oauth2: token server answered {status}, redirects are not followed")
        );
    }
    assert_eq!(target.count(), 0);
}

/// Runs itself again with the variables set: they belong to the process.
#[tokio::test]
async fn proxy_variables_are_not_obeyed() {
    let name = concat!(module_path!(), "::proxy_variables_are_not_obeyed");
    if support::rerun_behind_proxy(name) {
        return;
    }
    let fixture = Fixture::new().await;
    delivered(fixture.attempt().await);
    assert_eq!(fixture.server.count(), 1);
}

#[tokio::test]
async fn what_a_receiver_says_back_holds_no_token() {
    let mut fixture = Fixture::new().await;
    fixture.endpoint.url = mirror().await.parse().unwrap();
    let response = failure(fixture.attempt().await).response.unwrap();
    assert!(response.matches("(hidden)").count() >= 3, "{response}");
    // A 401 has another token fetched, which is refused as well.
    assert_eq!(fixture.server.count(), 2);
    for said in ["token-", "token%2D", &STANDARD.encode("token-2")[..8]] {
        assert!(!response.contains(said), "{said} in {response}");
    }
}
