//! Heads of responses that displease a strict parser. What curl (8) or Node's HTTP client (20) accepts counts.

use std::time::Duration;

use certhookd::model::Outcome;

use super::support::{self, answering, delivered, endpoint, failure, message, now};

const END: &str = "Content-Length: 0\r\n\r\n";
const INVALID: &str = "head of the response is not valid HTTP";

async fn attempt(head: &str) -> Outcome {
    let url = answering(head).await;
    support::client().attempt(&endpoint(&url), &message(), now()).await
}

/// Headers of a 200.
#[tokio::test]
async fn odd_headers_do_not_make_a_failure_of_a_2xx() {
    let many = |count| "X-Filler: f\r\n".repeat(count);
    let long = |size| format!("X-Filler: {}\r\n", "f".repeat(size));
    let table = [
        "X-Folded: a\r\n b\r\n".to_owned(),
        "X-Folded: a\r\n\tb\r\n\tc\r\n".into(),
        "X-Folded:\r\n b\r\n".into(),
        " folded: after the status line\r\n".into(),
        "Server : IIS\r\n".into(),
        "Server\t: IIS\r\n".into(),
        "X Name: 1\r\n".into(),
        "X(Name)[0]: 1\r\n".into(),
        "X-Naïve: 1\r\n".into(),
        ": no name\r\n".into(),
        "X-Text: naïve\r\n".into(),
        "X-Control: a\x01b\x7f\r\n".into(),
        "X-Return: a\rb\r\n".into(),
        "X-Returns: a\r\r\n".into(),
        "Content-Length: 2\r\n".into(),
        "Transfer-Encoding: identity\r\n".into(),
        many(150),
        many(300),
        many(3_000),
        long(70_000),
        long(10_000).repeat(20),
    ];
    for headers in table {
        let shown: String = headers.chars().take(40).collect();
        let outcome = attempt(&format!("HTTP/1.1 200 OK\r\n{headers}{END}")).await;
        assert!(
            matches!(outcome, Outcome::Delivered { status: 200, .. }),
            "{shown:?}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn odd_status_lines_and_whole_heads_do_not_make_a_failure_of_a_2xx() {
    let table = [
        "HTTP/1.1 200\r\n",
        "HTTP/1.1 200 \r\n",
        "HTTP/1.1 200 Natürlich\r\n",
        "HTTP/1.1 200 O\x01K\r\n",
        "HTTP/1.1  200 OK\r\n",
        "http/1.1 200 OK\r\n",
        "HTTP/2.0 200 OK\r\n",
        "HTTP/2 200 OK\r\n",
        "HTTP/0.9 200 OK\r\n",
        "\r\nHTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\nX-Folded: a\r\n b\r\n\r\nHTTP/1.1 200 OK\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/2.0 200 OK\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0 bytes\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    ];
    for head in table {
        let whole = if head.contains("\r\n\r\n") && !head.ends_with("OK\r\n") || head.ends_with("\n\n") {
            head.to_owned()
        } else {
            format!("{head}{END}")
        };
        let outcome = attempt(&whole).await;
        assert!(
            matches!(outcome, Outcome::Delivered { status: 200, .. }),
            "{head:?}: {outcome:?}"
        );
    }
}

/// The status is what counts, whatever else is in the head.
#[tokio::test]
async fn other_statuses_of_odd_heads_count_as_well() {
    let failed = failure(attempt("HTTP/2.0 500 Broken\r\nContent-Length: 0\r\n\r\n").await);
    assert_eq!((failed.status, &*failed.reason), (Some(500), "status 500"));
    let failed = failure(attempt("HTTP/1.0 302 Found\r\nTransfer-Encoding: chunked\r\n\r\n").await);
    assert_eq!(failed.reason, "status 302, redirects are not followed");
    let gone = attempt("HTTP/1.1 410 Gone\r\nContent-Length: x\r\n\r\n").await;
    assert!(matches!(gone, Outcome::Gone(_)), "{gone:?}");
    let busy = "HTTP/1.1 503 Busy\r\nRetry-After : 7\r\nX Name: 1\r\nX-Folded: a\r\n b\r\n";
    let failed = failure(attempt(&format!("{busy}{END}")).await);
    assert_eq!(failed.retry_after, Some(Duration::from_secs(7)));
}

/// The connection's next response is judged by itself.
#[tokio::test]
async fn a_status_is_taken_from_the_last_response_of_a_connection() {
    let url = support::server(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt;
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/2.0 404 No\r\n\r\n",
        ] {
            support::read_request(&mut stream).await?;
            stream.write_all(head.as_bytes()).await?;
        }
        std::future::pending().await
    })
    .await;
    let (client, endpoint) = (support::client(), endpoint(&url));
    delivered(client.attempt(&endpoint, &message(), now()).await);
    let failed = failure(client.attempt(&endpoint, &message(), now()).await);
    assert_eq!(failed.status, Some(404));
}

#[tokio::test]
async fn what_tells_no_status_is_a_failure_in_these_words() {
    let table = [
        "SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
        "220 mail.test ESMTP\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 2 OK\r\n\r\n",
        "HTTP/1.1 20000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTPS/1.1 200 OK\r\n\r\n",
        "\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
    ];
    for head in table {
        let failed = failure(attempt(head).await);
        assert_eq!((failed.status, &*failed.reason), (None, INVALID), "{head:?}");
    }
}
