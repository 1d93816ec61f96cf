//! Whose fault it is when an attempt through the proxy fails.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{self, Script, Scripted, client, proxy};
use super::{back, unavailable};
use crate::sender::support::{delivered, endpoint, failure, impatient, message, now, receiver};

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
    assert!(proxy.makes_wait(&hook));
    scripted.restart().await;
    back(&proxy).await;
    assert!(!proxy.makes_wait(&hook));
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
    assert!(proxy.makes_wait(&other));
    // Another may try once.
    assert!(!proxy.makes_wait(&hook));
    assert_eq!(
        unavailable(support::client(&proxy).attempt(&hook, &message(), now()).await),
        expected
    );
    assert!(proxy.makes_wait(&hook));
    scripted.is_silent(false);
    back(&proxy).await;
    delivered(client.attempt(&hook, &message(), now()).await);
}

/// By this the retry period of what had to wait begins anew: it must not for others, each time that the proxy fails for one host.
#[tokio::test]
async fn only_what_had_to_wait_for_the_proxy_is_back_after_an_outage() {
    let (receiver, mut scripted) = (receiver().await, Scripted::start().await);
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    let (hook, other) = (endpoint(&receiver.url()), endpoint("http://127.0.0.4:9/"));
    assert!(proxy.back_for(&hook).is_none() && proxy.back_for(&other).is_none());
    scripted.does_for("127.0.0.4:9", Script::Closes);
    unavailable(client.attempt(&other, &message(), now()).await);
    assert!(proxy.makes_wait(&other) && !proxy.makes_wait(&hook));
    delivered(client.attempt(&hook, &message(), now()).await);
    back(&proxy).await;
    assert!(proxy.back_for(&hook).is_none() && proxy.back_for(&other).is_some());
    scripted.kill().await;
    unavailable(support::client(&proxy).attempt(&hook, &message(), now()).await);
    assert!(proxy.makes_wait(&other) && proxy.makes_wait(&hook));
    scripted.restart().await;
    back(&proxy).await;
    assert!(proxy.back_for(&hook).is_some());
    assert!(proxy.back_for(&other) <= proxy.back_for(&hook));
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

/// It may break off for reasons of one host: that excuses no other.
#[tokio::test]
async fn what_was_under_way_while_the_proxy_broke_off_for_another_host_is_charged() {
    let (receiver, scripted) = (receiver().await, Scripted::start().await);
    let proxy = proxy(&scripted.url(), "");
    let client = client(&proxy);
    scripted.does_for("127.0.0.3:9", Script::Hangs);
    scripted.does_for("127.0.0.4:9", Script::Closes);
    let mut slow = endpoint("http://127.0.0.3:9/");
    slow.timeout = Duration::from_secs(2);
    let message = message();
    let under_way = client.attempt(&slow, &message, now());
    let outage = async {
        scripted.asked_for(1).await;
        unavailable(client.attempt(&endpoint("http://127.0.0.4:9/"), &message, now()).await);
        delivered(client.attempt(&endpoint(&receiver.url()), &message, now()).await);
        back(&proxy).await;
    };
    let (outcome, ()) = tokio::join!(under_way, outage);
    assert!(failure(outcome).timed_out);
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
        assert!(proxy.makes_wait(&bad) && !proxy.makes_wait(&good), "{of_others:?}");
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
