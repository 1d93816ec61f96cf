//! Deliveries through a forward proxy: to the address that was checked, and whose fault it is when that fails.

mod outage;
mod squid;
mod status;
pub mod support;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certhookd::model::Outcome;
use certhookd::sender::{Client, Lookup, Policy, Proxy, Waits};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::support::{Script, Scripted, client, client_of, found_at, proxy, proxy_found_by};
use crate::guard::{BLOCKED, strict};
use crate::oauth::support as oauth;
use crate::sender::support::{answering, delivered, endpoint, failure, impatient, message, now, policy, receiver};

/// Why nothing was attempted.
fn unavailable(outcome: Outcome) -> String {
    match outcome {
        Outcome::ProxyUnavailable { reason } => reason,
        other => panic!("not the proxy's fault: {other:?}"),
    }
}

/// Waits until the outage has ended.
async fn back(proxy: &Proxy) {
    let mut outages = proxy.outages();
    let ended = outages.wait_for(|waits| *waits == Waits::Nobody);
    tokio::time::timeout(crate::fixture::LIMIT, ended)
        .await
        .unwrap()
        .unwrap();
}

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
    let client = Client::behind(only, lookup, proxy(&scripted.url(), "")).unwrap();
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
            let client = Client::behind(strict(), lookup, proxy.clone()).unwrap();
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

/// What a proxy says of a target is about that target.
#[tokio::test]
async fn a_status_other_than_407_is_the_endpoint_s_failure() {
    let (receiver, scripted) = (receiver().await, Scripted::start().await);
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    scripted.does_for("127.0.0.1:9", Script::Tunnel);
    let table = [
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", 502),
        ("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\n\r\nbusy", 503),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", 504),
        ("HTTP/1.1 500 Oh\r\n\r\n", 500),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n<p>no</p>",
            403,
        ),
        ("HTTP/1.0 404 Not Found\r\n\r\n", 404),
        ("HTTP/1.1 302 Found\r\nLocation: http://login.test/\r\n\r\n", 302),
        ("HTTP/1.1 429 Too Many\r\n\r\n", 429),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
    ];
    let dead = endpoint("http://127.0.0.3:9/");
    for (says, status) in table {
        scripted.does_for("127.0.0.3:9", Script::Says(says));
        let failed = failure(client.attempt(&dead, &message(), now()).await);
        assert_eq!(failed.reason, format!("the proxy answered {status} to CONNECT"));
        assert_eq!((failed.status, failed.timed_out, failed.connect), (None, false, None));
        assert!(proxy.outage().is_none(), "{status}");
        delivered(client.attempt(&endpoint(&receiver.url()), &message(), now()).await);
    }
    // What the endpoint itself says, through the tunnel.
    let url = answering("HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n").await;
    let failed = failure(client.attempt(&endpoint(&url), &message(), now()).await);
    assert_eq!((&*failed.reason, failed.status), ("status 407", Some(407)));
    assert!(proxy.outage().is_none());
}

#[tokio::test]
async fn any_2xx_makes_a_tunnel_by_any_version() {
    let receiver = receiver().await;
    for head in [
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connection established\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let port = receiver.port();
        let url = crate::sender::support::server(move |mut stream, _| async move {
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut seen).await?;
            }
            stream.write_all(head.as_bytes()).await?;
            let mut target = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut target).await.map(drop)
        })
        .await;
        let client = client(&proxy(url.trim_end_matches('/'), ""));
        delivered(client.attempt(&endpoint(&receiver.url()), &message(), now()).await);
    }
}

/// What goes wrong before the proxy has answered is no endpoint's, and ends when the proxy is mended.
#[tokio::test]
async fn the_proxy_s_own_faults_are_never_an_endpoint_s() {
    let receiver = receiver().await;
    let table = [
        ("closes", Script::Closes, "breaks off before it answers: "),
        (
            "no HTTP",
            Script::Says("SSH-2.0-OpenSSH\r\n\r\n"),
            "breaks off before it answers: head of the response is not valid HTTP",
        ),
        (
            "half a head",
            Script::Says("HTTP/1.1 200 OK\r\n"),
            "breaks off before it answers: ",
        ),
        (
            "wants a login",
            Script::Says("HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic\r\n\r\n"),
            "wants a login (407)",
        ),
    ];
    for (what, script, expected) in table {
        let scripted = Scripted::start().await;
        let proxy = proxy(&scripted.url(), "");
        let client = client(&proxy);
        scripted.does(script);
        let reason = unavailable(client.attempt(&endpoint(&receiver.url()), &message(), now()).await);
        assert!(
            reason.starts_with(&format!("the proxy {} {expected}", scripted.address)),
            "{what}: {reason}"
        );
        scripted.does(Script::Tunnel);
        back(&proxy).await;
        delivered(client.attempt(&endpoint(&receiver.url()), &message(), now()).await);
    }
}

#[tokio::test]
async fn a_proxy_that_can_not_be_reached_is_said_to_be_and_asked_until_it_is() {
    let receiver = receiver().await;
    let mut scripted = Scripted::start().await;
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    let hook = endpoint(&receiver.url());
    delivered(client.attempt(&hook, &message(), now()).await);
    scripted.kill().await;
    for _ in 0..3 {
        let reason = unavailable(client.attempt(&hook, &message(), now()).await);
        assert_eq!(
            reason,
            format!("the proxy {} can't be reached: connection refused", scripted.address)
        );
    }
    assert!(proxy.holds(&hook));
    scripted.restart().await;
    back(&proxy).await;
    assert!(!proxy.holds(&hook));
    delivered(client.attempt(&hook, &message(), now()).await);

    let no_tls = crate::sender::support::server(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await
    });
    let no_tls = no_tls.await.replace("http://", "https://");
    let nowhere = "http://nowhere.test:3128/";
    for (url, expected) in [
        (
            nowhere,
            "the proxy nowhere.test:3128 can't be reached: dns: no such name",
        ),
        (&no_tls, "can't be reached: tls: the response is not TLS"),
    ] {
        let proxy = support::proxy(url, "");
        let reason = unavailable(support::client(&proxy).attempt(&hook, &message(), now()).await);
        assert!(reason.contains(expected), "{reason}");
    }
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

/// A proxy waits for a target that hangs: that must not look as if the proxy hung, however it takes what it does not know.
#[tokio::test]
async fn a_target_that_hangs_is_an_endpoint_s_timeout_and_a_silent_proxy_is_the_proxy_s_fault() {
    let receiver = receiver().await;
    let bad_request = Script::Says("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let login = Script::Says("HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n");
    for of_others in [Script::Says(support::UNKNOWN), bad_request, login, Script::Closes] {
        let scripted = Scripted::start().await;
        let proxy = proxy(&scripted.url(), "");
        let client = client(&proxy);
        scripted.does_for_others(of_others.clone());
        scripted.does_for("127.0.0.3:9", Script::Hangs);
        for _ in 0..2 {
            let failed = failure(
                client
                    .attempt(&impatient("http://127.0.0.3:9/"), &message(), now())
                    .await,
            );
            assert_eq!(failed.reason, "timeout after 400 ms: no connection");
            assert!(failed.timed_out && proxy.outage().is_none(), "{of_others:?}");
        }
        let hook = impatient(&receiver.url());
        delivered(client.attempt(&hook, &message(), now()).await);
    }
}

#[tokio::test]
async fn a_silent_proxy_is_the_proxy_s_fault() {
    let (receiver, scripted) = (receiver().await, Scripted::start().await);
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    let (hook, other) = (impatient(&receiver.url()), impatient("http://127.0.0.4:9/"));
    delivered(client.attempt(&hook, &message(), now()).await);
    scripted.is_silent(true);
    let expected = format!("the proxy {} takes connections and does not respond", scripted.address);
    assert_eq!(unavailable(client.attempt(&other, &message(), now()).await), expected);
    assert!(proxy.holds(&other));
    // Another may try once.
    assert!(!proxy.holds(&hook));
    assert_eq!(
        unavailable(support::client(&proxy).attempt(&hook, &message(), now()).await),
        expected
    );
    assert!(proxy.holds(&hook));
    scripted.is_silent(false);
    back(&proxy).await;
    delivered(client.attempt(&hook, &message(), now()).await);
}

/// A request whose tunnel hung with the proxy may time out when the proxy works again.
#[tokio::test]
async fn what_was_under_way_during_an_outage_is_not_charged_after_it() {
    let scripted = Scripted::start().await;
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    scripted.does(Script::Hangs);
    let mut slow = endpoint("http://127.0.0.3:9/");
    slow.timeout = Duration::from_secs(4);
    let message = message();
    let under_way = client.attempt(&slow, &message, now());
    let outage = async {
        scripted.asked_for(1).await;
        scripted.is_silent(true);
        unavailable(client.attempt(&impatient("http://127.0.0.4:9/"), &message, now()).await);
        scripted.is_silent(false);
        back(&proxy).await;
    };
    let (outcome, ()) = tokio::join!(under_way, outage);
    let expected = format!("the proxy {} did not work meanwhile", scripted.address);
    assert_eq!(unavailable(outcome), expected);
    assert!(proxy.outage().is_none());
    // What begins after it is.
    let failed = failure(client.attempt(&impatient("http://127.0.0.3:9/"), &message, now()).await);
    assert!(failed.timed_out);
}

/// However the proxy takes what it does not know: who is answered shows that it works.
#[tokio::test]
async fn a_target_at_which_the_proxy_always_breaks_off_holds_no_other_and_is_its_endpoint_s_failure() {
    let receiver = receiver().await;
    for of_others in [Script::Says(support::UNKNOWN), Script::Closes, Script::Hangs] {
        let scripted = Scripted::start().await;
        let proxy = proxy(&scripted.url(), "");
        let client = client(&proxy);
        scripted.does_for_others(of_others.clone());
        scripted.does_for("127.0.0.3:9", Script::Closes);
        let (bad, good) = (endpoint("http://127.0.0.3:9/"), endpoint(&receiver.url()));
        unavailable(client.attempt(&bad, &message(), now()).await);
        assert!(proxy.holds(&bad) && !proxy.holds(&good), "{of_others:?}");
        delivered(client.attempt(&good, &message(), now()).await);
        assert!(proxy.outage().is_none());
        for _ in 0..3 {
            let failed = failure(client.attempt(&bad, &message(), now()).await);
            assert_eq!(
                failed.reason,
                "the proxy breaks off CONNECT to this host, and answers for others"
            );
            assert!(proxy.outage().is_none());
        }
    }
}

#[tokio::test]
async fn a_proxy_that_breaks_off_for_all_charges_nobody() {
    let (receiver, scripted) = (receiver().await, Scripted::start().await);
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    scripted.does(Script::Closes);
    let hooks = [
        endpoint(&receiver.url()),
        endpoint("http://127.0.0.3:9/"),
        endpoint("http://127.0.0.4:9/"),
    ];
    for _ in 0..3 {
        for hook in &hooks {
            let reason = unavailable(client.attempt(hook, &message(), now()).await);
            assert!(reason.contains("breaks off before it answers"), "{reason}");
        }
        // Again and again, also where it is asked anew.
        scripted.asked_for(scripted.targets().len() + 2).await;
    }
    scripted.does(Script::Tunnel);
    back(&proxy).await;
    delivered(client.attempt(&hooks[0], &message(), now()).await);
}

#[tokio::test]
async fn a_tunnel_that_breaks_is_the_endpoint_s_failure_if_the_proxy_lives() {
    let mut scripted = Scripted::start().await;
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    scripted.does(Script::Breaks);
    let hook = endpoint("http://127.0.0.3:9/");
    for _ in 0..2 {
        let failed = failure(client.attempt(&hook, &message(), now()).await);
        assert!(failed.reason.starts_with("connection "), "{failed:?}");
        assert!(proxy.outage().is_none());
    }
    // In the midst of a request the proxy itself ends.
    let silent =
        crate::sender::support::server(
            |mut stream, _| async move { stream.read_to_end(&mut Vec::new()).await.map(drop) },
        )
        .await;
    scripted.does(Script::Tunnel);
    let hook = endpoint(&silent);
    let (message, now) = (message(), now());
    let attempt = client.attempt(&hook, &message, now);
    let killed = async {
        scripted.asked_for(3).await;
        scripted.kill().await;
    };
    let (outcome, ()) = tokio::join!(attempt, killed);
    unavailable(outcome);
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
        assert!(!proxy.holds(&endpoint(&url)), "{url}");
    }
    assert!(proxy.holds(&endpoint("http://127.0.0.3:9/")));
}

#[tokio::test]
async fn a_login_is_sent_to_the_proxy_alone_and_shown_nowhere() {
    let (receiver, scripted) = (receiver().await, Scripted::start().await);
    scripted.wants(Some("bob@corp:s3cret: é"));
    let url = |login: &str| format!("http://{login}@{}", scripted.address);
    let wrong = proxy(&url("bob%40corp:hunter2"), "");
    let hook = endpoint(&receiver.url());
    let reason = unavailable(client(&wrong).attempt(&hook, &message(), now()).await);
    assert_eq!(
        reason,
        format!("the proxy {} refuses the login (407)", scripted.address)
    );

    // A reload brings the right one.
    let right = support::configured(&url("bob%40corp:s3cret%3A%20%C3%A9"), "");
    assert!(
        !format!("{right:?}").contains("s3cret") && !format!("{right:?}").contains("bob"),
        "{right:?}"
    );
    wrong.replace(right.delivery.proxy, right.delivery.no_proxy).unwrap();
    back(&wrong).await;
    delivered(client(&wrong).attempt(&hook, &message(), now()).await);
    assert!(!receiver.requests()[0].headers.contains_key("proxy-authorization"));
}

/// Token servers go the same way, and the proxy's faults are as little theirs.
#[tokio::test]
async fn token_servers_are_asked_through_the_proxy() {
    let fixture = oauth::Fixture::new().await;
    let scripted = Scripted::start().await;
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    let attempt = || async { client.attempt(&fixture.endpoint, &message(), now()).await };
    delivered(attempt().await);
    let token_target = format!("127.0.0.1:{}", fixture.server.port());
    assert_eq!(scripted.targets()[0], token_target);
    assert_eq!(scripted.targets().len(), 2);

    // Another client has no token yet.
    let client = support::client(&proxy);
    let attempt = || async { client.attempt(&fixture.endpoint, &message(), now()).await };
    scripted.does_for(&token_target, Script::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n"));
    assert_eq!(
        failure(attempt().await).reason,
        "oauth2: token server: the proxy answered 502 to CONNECT"
    );
    scripted.wants(Some("a:b"));
    assert!(unavailable(attempt().await).ends_with("wants a login (407)"));
    scripted.wants(None);
    back(&proxy).await;
    scripted.does_for(&token_target, Script::Hangs);
    let mut slow = fixture.endpoint.clone();
    slow.timeout = Duration::from_millis(400);
    let failed = failure(client.attempt(&slow, &message(), now()).await);
    assert_eq!(
        failed.reason,
        "oauth2: the token server did not respond within the endpoint's timeout"
    );
    scripted.is_silent(true);
    assert!(unavailable(client.attempt(&slow, &message(), now()).await).ends_with("does not respond"));
}
