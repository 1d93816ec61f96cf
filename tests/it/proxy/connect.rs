//! What the proxy is asked with, and what it says to that.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Script, Scripted, client, configured, proxy};
use super::{back, unavailable};
use crate::oauth::support as oauth;
use crate::sender::support::{answering, delivered, endpoint, failure, message, now, receiver};

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
    let right = configured(&url("bob%40corp:s3cret%3A%20%C3%A9"), "");
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
    let client = super::support::client(&proxy);
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
