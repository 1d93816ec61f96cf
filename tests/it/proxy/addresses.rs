//! Which address a request goes to, by the proxy or directly.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certhookd::sender::{Client, Lookup, Policy};
use futures_util::FutureExt;

use super::support::{Scripted, client, client_of, found_at, proxy, proxy_found_by};
use super::unavailable;
use crate::guard::{BLOCKED, strict};
use crate::sender::support::{delivered, endpoint, failure, message, now, policy, receiver};

#[tokio::test]
async fn a_request_goes_to_the_address_that_was_checked_and_names_its_host() {
    let (receiver, scripted) = (receiver().await, Scripted::start().await);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // The name leads elsewhere once it was checked.
    let lookup: Lookup = Arc::new(move |_| {
        let last = if count.fetch_add(1, Ordering::SeqCst) == 0 {
            1
        } else {
            2
        };
        std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, last])])).boxed()
    });
    let only = Policy {
        allow_networks: vec!["127.0.0.1/32".parse().unwrap()],
        ..policy()
    };
    let client = Client::with_proxy(only, lookup, proxy(&scripted.url(), "")).unwrap();
    let port = receiver.port();
    let hook = endpoint(&format!("http://receiver.test:{port}/hook"));
    for _ in 0..3 {
        delivered(client.attempt(&hook, &message(), now()).await);
    }
    assert_eq!(scripted.targets(), [format!("127.0.0.1:{port}")], "one tunnel for all");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let requests = receiver.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!(request.headers["host"], format!("receiver.test:{port}"));
        assert_eq!(request.uri, "/hook", "as without a proxy");
        assert!(!request.headers.contains_key("proxy-authorization"));
    }
    let connect = &scripted.asked()[0];
    assert!(
        connect.head.contains(&format!("Host: 127.0.0.1:{port}\r\n")),
        "{connect:?}"
    );
}

#[tokio::test]
async fn no_blocked_address_is_asked_of_the_proxy() {
    let scripted = Scripted::start().await;
    let proxy = proxy(&scripted.url(), "");
    let direct = Client::new(strict()).unwrap();
    let client = client_of(strict(), &proxy);
    for (notation, host, _) in BLOCKED {
        let hook = endpoint(&format!("http://{host}:9/"));
        let expected = failure(direct.attempt(&hook, &message(), now()).await).reason;
        let failed = failure(client.attempt(&hook, &message(), now()).await);
        assert_eq!(failed.reason, expected, "{notation}");
        // And as what a name leads to.
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            let lookup = found_at(&[("receiver.test", &address.to_string())]);
            let client = Client::with_proxy(strict(), lookup, proxy.clone()).unwrap();
            let failed = failure(
                client
                    .attempt(&endpoint("http://receiver.test:9/"), &message(), now())
                    .await,
            );
            assert!(failed.reason.starts_with("address refused: "), "{notation}: {failed:?}");
        }
    }
    assert_eq!(scripted.asked(), []);
}

#[tokio::test]
async fn the_proxy_s_name_is_looked_up_for_each_connection_and_may_lead_anywhere() {
    let (receiver, other) = (receiver().await, receiver().await);
    let scripted = Scripted::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let lookup: Lookup = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])).boxed()
    });
    let url = format!("http://proxy.test:{}", scripted.address.port());
    // Loopback is blocked, for endpoints.
    let client = client_of(policy(), &proxy_found_by(&url, "", lookup));
    for hook in [&receiver, &other] {
        delivered(client.attempt(&endpoint(&hook.url()), &message(), now()).await);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn who_is_listed_is_reached_directly() {
    let (receiver, scripted) = (receiver().await, Scripted::start().await);
    let table = [
        ("127.0.0.1", "127.0.0.0/8", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "10.0.0.0/8, ::1", false),
        ("[::ffff:127.0.0.1]", "127.0.0.0/8", true),
        ("hr.example.test", "hr.example.test", true),
        ("HR.example.test", "hr.EXAMPLE.test.", true),
        ("hr.example.test", ".example.test", true),
        ("example.test", ".example.test", false),
        ("badexample.test", ".example.test", false),
        ("hr.example.test", "example.test", false),
        ("hr.example.test", "127.0.0.0/8", true),
        ("hr.example.test", "127.0.0.2/32", false),
        ("hr.example.test", "", false),
    ];
    for (host, no_proxy, is_direct) in table {
        let before = scripted.targets().len();
        let proxy = proxy(&scripted.url(), no_proxy);
        let url = format!("http://{host}:{}/", receiver.port());
        delivered(client(&proxy).attempt(&endpoint(&url), &message(), now()).await);
        assert_eq!(
            scripted.targets().len() == before,
            is_direct,
            "{host} beside {no_proxy}"
        );
    }
    // A proxy that is unavailable holds the others alone.
    let mut scripted = scripted;
    scripted.kill().await;
    let proxy = proxy(&scripted.url(), "127.0.0.1");
    let client = client(&proxy);
    unavailable(
        client
            .attempt(&endpoint("http://127.0.0.3:9/"), &message(), now())
            .await,
    );
    let listed = [receiver.url(), format!("http://hr.example.test:{}/", receiver.port())];
    for url in listed {
        delivered(client.attempt(&endpoint(&url), &message(), now()).await);
        assert!(!proxy.makes_wait(&endpoint(&url)), "{url}");
    }
    assert!(proxy.makes_wait(&endpoint("http://127.0.0.3:9/")));
}
