//! Token servers that give no token: a failed attempt with a reason, no request to the endpoint, and never a secret.

use std::time::Duration;

use certhookd::platform::Endpoint;
use tokio::io::AsyncWriteExt;

use super::support::{Fixture, Receiver, answering, endpoint};
use crate::sender::support::{self, delivered, failure, message, now, server};

/// The reason of an attempt whose token server answers so.
async fn reason(status: u16, body: &str) -> String {
    let fixture = Fixture::new().await;
    fixture.server.answers([(status, body), (status, body)]);
    let failed = failure(fixture.attempt().await);
    assert!(fixture.receiver.tokens().is_empty(), "sent without a token");
    assert!(!failed.reason.contains("s3cr3t"), "{}", failed.reason);
    assert_eq!((failed.status, failed.retry_after), (None, None));
    failed.reason
}

#[tokio::test]
async fn what_a_token_server_answers_is_told_without_its_secrets() {
    let long = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(64 * 1024));
    let table = [
        (400, r#"{"error":"invalid_client"}"#, " 400 invalid_client"),
        (401, r#"{"error":"s3cr3t: +/%"}"#, " 401"),
        (
            400,
            r#"{"error":"invalid_scope","error_description":"s3cr3t"}"#,
            " 400 invalid_scope",
        ),
        (503, "s3cr3t", " 503"),
        (302, "", " 302, redirects are not followed"),
        (
            200,
            "<s3cr3t>",
            " 200 without a usable token: no JSON object with an access_token",
        ),
        (
            200,
            r#"{"token_type":"bearer"}"#,
            " 200 without a usable token: no JSON object with an access_token",
        ),
        (
            200,
            r#"{"access_token":""}"#,
            " 200 without a usable token: its access_token is empty",
        ),
        (
            200,
            r#"{"access_token":"s3cr3t","token_type":"mac"}"#,
            " 200 without a usable token: its token_type is not Bearer",
        ),
        (
            200,
            r#"{"access_token":"s3cr3t\n"}"#,
            " 200 without a usable token: its access_token holds a character that no header may hold",
        ),
    ];
    for (status, body, expected) in table {
        assert_eq!(
            reason(status, body).await,
            format!("oauth2: token server answered{expected}")
        );
    }
    assert_eq!(
        reason(200, &long).await,
        "oauth2: token server: its response is longer than 64 KiB"
    );
}

/// Which of two refusals tells the operator more.
#[tokio::test]
async fn of_two_refusals_the_one_that_knows_the_client_is_told() {
    let client = (401, r#"{"error":"invalid_client"}"#);
    let request = (400, r#"{"error":"invalid_request"}"#);
    let scope = (400, r#"{"error":"invalid_scope"}"#);
    let table = [
        ([client, request], "401 invalid_client"),
        ([request, client], "401 invalid_client"),
        ([(500, "<html>"), client], "401 invalid_client"),
        ([client, (403, "no")], "401 invalid_client"),
        ([scope, client], "400 invalid_scope"),
        ([(500, ""), (403, "")], "403"),
    ];
    for (answers, expected) in table {
        let fixture = Fixture::new().await;
        fixture.server.answers(answers);
        let failed = failure(fixture.attempt().await);
        assert_eq!(failed.reason, format!("oauth2: token server answered {expected}"));
        assert_eq!(fixture.server.count(), 2);
    }
}

#[tokio::test]
async fn attempts_at_once_share_a_failure_and_the_next_asks_again() {
    let fixture = Fixture::new().await;
    fixture.server.answers([(503, "")]);
    for outcome in fixture.attempts().await {
        assert_eq!(failure(outcome).reason, "oauth2: token server answered 503");
    }
    assert_eq!(fixture.server.count(), 1);
    delivered(fixture.attempt().await);
}

#[tokio::test]
async fn a_renewal_that_fails_is_the_attempts_failure() {
    let fixture = Fixture::new().await;
    delivered(fixture.attempt().await);
    fixture.receiver.accept("token-2");
    fixture.server.answers([(503, "")]);
    let failed = failure(fixture.attempt().await);
    assert_eq!(failed.reason, "oauth2: token server answered 503");
    assert_eq!(fixture.receiver.tokens(), ["token-1", "token-1"]);
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_timeout_and_no_more() {
    let hung = [
        server(|stream, _| async move {
            let _open = stream;
            std::future::pending().await
        })
        .await,
        server(|mut stream, _| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{").await?;
            std::future::pending().await
        })
        .await,
    ];
    let receiver = Receiver::start().await;
    for url in hung {
        let impatient = Endpoint {
            timeout: Duration::from_millis(400),
            ..endpoint(&receiver, &url)
        };
        let failed = failure(support::client().attempt(&impatient, &message(), now()).await);
        assert_eq!(
            failed.reason,
            "oauth2: the token server did not respond within the endpoint's timeout"
        );
    }
    assert!(receiver.tokens().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_or_breaks_off_is_told() {
    // Bound and not listening: the port stays this test's own.
    let unheard = tokio::net::TcpSocket::new_v4().unwrap();
    unheard.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = unheard.local_addr().unwrap();
    let breaking = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{").await;
    let garbage = answering("SSH-2.0-OpenSSH_9.2\r\n").await;
    let receiver = Receiver::start().await;
    let table = [
        (format!("http://{gone}/?s3cr3t"), "connection refused"),
        (breaking, "connection closed"),
        (garbage, "head of the response is not valid HTTP"),
    ];
    for (url, expected) in table {
        let endpoint = endpoint(&receiver, &url);
        let failed = failure(support::client().attempt(&endpoint, &message(), now()).await);
        assert_eq!(failed.reason, format!("oauth2: token server: {expected}"));
    }
}
