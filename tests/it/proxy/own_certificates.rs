//! Endpoints' own certificates, through the proxy: they hold inside the tunnel, for their endpoint alone, and never for the proxy.

use std::collections::{HashMap, HashSet};

use bson::doc;
use certhookd::platform::{Auth, Endpoint};
use futures_util::future::join_all;

use super::support::{Scripted, client, proxy};
use super::unavailable;
use crate::oauth::support::credentials;
use crate::sender::own_certificates::{
    asking, assert_refused, assert_shows_none, endpoint, reason, receiver, shown, succeeds, token_server, with_ca,
};
use crate::sender::support::{message, now};
use crate::sender::tls::Authority;

const UNTRUSTED: &str = "tls: certificate's issuer is not trusted";

#[tokio::test]
async fn each_endpoint_trusts_and_shows_its_own_through_the_tunnel() {
    let [servers, others, clients] = ["servers", "others", "clients"].map(Authority::new);
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let scripted = Scripted::start().await;
        let proxy = proxy(&scripted.url(), "");
        let client = client(&proxy);
        let demanding = servers.acceptor_that(asking(&clients, false), "receiver.test", 2999, &[alpn]);
        let (url, seen) = receiver(demanding).await;
        let (other_url, other_seen) = receiver(others.acceptor("receiver.test", 2999, alpn)).await;
        let one = endpoint(1, &url, with_ca(shown(&clients, "one.test", ""), &servers));
        let two = endpoint(2, &url, with_ca(shown(&clients, "two.test", ""), &servers));
        let of_other = endpoint(3, &other_url, doc! { "ca": others.pem() });
        let nobody = endpoint(4, &url, doc! { "ca": servers.pem() });
        let stranger = endpoint(5, &url, with_ca(shown(&others, "five.test", ""), &servers));
        // Those who trust one authority don't reach a receiver of the other, whatever else is open by now.
        let astray = [
            endpoint(6, &url, with_ca(shown(&clients, "six.test", ""), &others)),
            endpoint(7, &other_url, with_ca(shown(&clients, "seven.test", ""), &servers)),
            endpoint(8, &other_url, doc! {}),
        ];
        for _ in 0..2 {
            join_all([&one, &two, &of_other, &one, &two].map(|endpoint| succeeds(&client, endpoint))).await;
            for endpoint in &astray {
                assert_eq!(reason(&client, endpoint).await, UNTRUSTED);
            }
            assert_shows_none(&client, &nobody).await;
            assert_refused(&client, &stranger).await;
        }
        assert!(proxy.outage().is_none());
        let by_connection: HashMap<_, _> = seen.lock().iter().cloned().collect();
        let certificates: HashSet<_> = by_connection.values().collect();
        assert_eq!((seen.lock().len(), certificates.len()), (8, 2));
        assert!(other_seen.lock().iter().all(|(_, certificate)| certificate.is_none()));
        assert_eq!(other_seen.lock().len(), 2);
        assert!(scripted.targets().len() >= 3 + 2 * 5, "{:?}", scripted.targets());
    }
}

#[tokio::test]
async fn token_servers_are_shown_them_through_the_tunnel() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let scripted = Scripted::start().await;
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    let acceptor = servers.acceptor_that(asking(&clients, false), "id.test", 2999, &[b"http/1.1"]);
    let tokens = token_server(acceptor).await.replace("127.0.0.1", "id.test");
    let (url, seen) = receiver(servers.acceptor("receiver.test", 2999, b"http/1.1")).await;
    let with = |number, tls| Endpoint {
        auth: Auth::OAuth2(credentials(&tokens)),
        ..endpoint(number, &url, tls)
    };
    succeeds(&client, &with(1, with_ca(shown(&clients, "one.test", ""), &servers))).await;
    let other = Authority::new("other");
    for (number, tls) in [
        (2, doc! { "ca": servers.pem() }),
        (3, with_ca(shown(&other, "three.test", ""), &servers)),
        (4, with_ca(shown(&clients, "four.test", ""), &other)),
        (5, doc! {}),
    ] {
        let refused = reason(&client, &with(number, tls)).await;
        assert!(refused.starts_with("oauth2: token server: "), "{number} {refused}");
    }
    assert!(proxy.outage().is_none());
    assert_eq!(seen.lock().len(), 1);
    assert_eq!(scripted.targets().len(), 2 + 4);
}

/// The way to the proxy itself is the operator's: no organization's authority is trusted there, and no certificate is shown.
#[tokio::test]
async fn the_proxy_s_own_tls_knows_nothing_of_them() {
    let (own, clients) = (Authority::new("own"), Authority::new("clients"));
    let scripted = Scripted::over(Some(own.acceptor_that(
        asking(&clients, true),
        "proxy.test",
        2999,
        &[b"http/1.1"],
    )))
    .await;
    let name = format!("proxy.test:{}", scripted.address.port());
    let proxy = proxy(&format!("https://{name}"), "");
    let (url, seen) = receiver(own.acceptor("receiver.test", 2999, b"http/1.1")).await;
    let trusting = endpoint(1, &url, with_ca(shown(&clients, "one.test", ""), &own));
    let client = client(&proxy);
    let reason = unavailable(client.attempt(&trusting, &message(), now()).await);
    assert_eq!(reason, format!("the proxy {name} can't be reached: {UNTRUSTED}"));
    assert!(scripted.asked().is_empty() && seen.lock().is_empty());
}
