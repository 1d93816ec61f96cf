//! What a failed attempt keeps of its response: bounded, printable, without secrets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certhookd::model::Failure;
use certhookd::platform::{Auth, Endpoint};
use certhookd::sender::{Client, Policy};
use http::{HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::AsyncWriteExt;

use super::read_any_request;
use crate::sender::support::{self, endpoint, failure, message, now, read_request, server};

/// What an endpoint is changed by.
type Change = fn(&mut Endpoint);

/// What a receiver writes, then again and again, and how what is kept begins.
type Case = (&'static str, &'static [u8], &'static [u8], Option<&'static str>);

/// The failure of an attempt that gets this response, and how long it took.
async fn attempt(answer: &'static [u8], then: &'static [u8]) -> (Failure, Duration) {
    let url = server(move |mut stream, _| async move {
        read_request(&mut stream).await?;
        stream.write_all(answer).await?;
        while !then.is_empty() {
            stream.write_all(then).await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::future::pending().await
    })
    .await;
    let began = Instant::now();
    let outcome = support::client().attempt(&endpoint(&url), &message(), now()).await;
    (failure(outcome), began.elapsed())
}

#[tokio::test]
async fn a_body_costs_a_quarter_of_a_second_and_one_kilobyte_at_most() {
    let escapes: &'static [u8] = Box::leak(
        "\u{1b}[2J<script>\u{202e}"
            .repeat(4_000)
            .into_bytes()
            .into_boxed_slice(),
    );
    let head = format!("HTTP/1.1 500 Sick\r\nContent-Length: {}\r\n\r\n", escapes.len());
    let whole = [head.as_bytes(), escapes];
    let whole: &'static [u8] = Box::leak(whole.concat().into_boxed_slice());
    const CHUNKED: &[u8] = b"HTTP/1.1 500 Sick\r\nTransfer-Encoding: chunked\r\n\r\n";
    const ENDLESS: &[u8] = b"HTTP/1.1 500 Sick\r\nConnection: close\r\n\r\n";
    let table: [Case; 6] = [
        ("escapes", whole, b"", Some(r"\u{1b}[2J<script>\u{202e}\u{1b}[2J")),
        ("dripping", CHUNKED, b"1\r\na\r\n", Some("aa")),
        ("endless", ENDLESS, b"sick and tired ", Some("sick and tired sick")),
        ("never", CHUNKED, b"", None),
        ("no head", b"HTTP/1.1 500 Sick\r\nnonsense\r\n\r\n", b"", None),
        (
            "NUL",
            b"HTTP/1.1 500 Sick\r\nContent-Length: 3\r\n\r\na\0\xff",
            b"",
            Some("a\\u{0}\u{fffd}"),
        ),
    ];
    for (what, answer, then, begins) in table {
        let (failure, took) = attempt(answer, then).await;
        assert_eq!(failure.status, Some(500), "{what}");
        assert!(took < Duration::from_secs(3), "{what}: {took:?}");
        let response = failure.response.as_deref();
        let is_right = begins.map_or(response.is_none(), |begins| {
            response.is_some_and(|text| text.starts_with(begins))
        });
        assert!(is_right, "{what}: {response:?}");
        let is_harmless = |c: char| !c.is_control() && c != '\u{202e}';
        assert!(
            response.is_none_or(|text| text.len() <= 1024 && text.chars().all(is_harmless)),
            "{what}: {response:?}"
        );
    }
}

#[tokio::test]
async fn reading_it_keeps_the_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let url = server(move |mut stream, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            while read_request(&mut stream).await? {
                stream
                    .write_all(b"HTTP/1.1 503 Sick\r\nContent-Length: 4\r\n\r\nsick")
                    .await?;
            }
            Ok(())
        }
    })
    .await;
    let (client, endpoint) = (support::client(), endpoint(&url));
    for number in 0..3 {
        let failure = failure(client.attempt(&endpoint, &message(), now()).await);
        assert_eq!(failure.response.as_deref(), Some("sick"));
        assert_eq!(
            failure.connect == Some(Duration::ZERO),
            number > 0,
            "{:?}",
            failure.connect
        );
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_blocked_address_has_no_response() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let url = server(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    })
    .await;
    let policy = Policy {
        allow_networks: Vec::new(),
        ..support::policy()
    };
    for url in [url.clone(), url.replace("127.0.0.1", "localhost")] {
        let client = Client::new(policy.clone()).unwrap();
        let failure = failure(client.attempt(&endpoint(&url), &message(), now()).await);
        assert!(failure.reason.starts_with("address refused"), "{failure:?}");
        assert_eq!((failure.response, failure.connect, failure.status), (None, None, None));
    }
    assert_eq!(requests.load(Ordering::SeqCst), 0);
}

/// A receiver that says back the whole request, as it is, percent-encoded and in base64.
pub(crate) async fn mirror() -> String {
    server(|mut stream, _| async move {
        let request = String::from_utf8_lossy(&read_any_request(&mut stream).await?).into_owned();
        let secrets = request.lines().filter(|line| {
            let line = line.to_lowercase();
            ["post", "authorization", "x-api-key", "x-tenant"]
                .iter()
                .any(|name| line.starts_with(name))
        });
        let said: String = secrets
            .flat_map(|line| {
                let percent = utf8_percent_encode(line, NON_ALPHANUMERIC).to_string();
                [line.to_owned(), percent, STANDARD.encode(line)]
            })
            .collect::<Vec<_>>()
            .join("|");
        let head = format!("HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n", said.len());
        stream.write_all((head + &said).as_bytes()).await
    })
    .await
}

#[tokio::test]
async fn what_a_receiver_says_back_holds_no_secret() {
    let url = mirror().await.replace("127.0.0.1", "ada:s3cret-in-url@127.0.0.1");
    let none: Change = |_| {};
    let table: [(Change, &[&str]); 4] = [
        (none, &["ada:s3cret-in-url", "s3cret-in-url"]),
        (
            |one| {
                one.auth = Auth::Bearer {
                    token: "s3cret/token+=".into(),
                }
            },
            &["s3cret/token+="],
        ),
        (
            |one| {
                one.auth = Auth::ApiKey {
                    header: HeaderName::from_static("x-api-key"),
                    key: "s3cret-key".into(),
                };
            },
            &["s3cret-key"],
        ),
        (
            |one| {
                let mut value = HeaderValue::from_static("Key s3cret-header");
                value.set_sensitive(true);
                one.headers.insert("x-tenant", value);
            },
            &["s3cret-header"],
        ),
    ];
    for (configure, secrets) in table {
        let mut endpoint = endpoint(&format!("{url}?key=s3cret-query"));
        configure(&mut endpoint);
        let failure = failure(support::client().attempt(&endpoint, &message(), now()).await);
        let response = failure.response.unwrap();
        assert!(
            response.starts_with("POST /?key=(hidden)") && response.matches("(hidden)").count() >= 6,
            "{response}"
        );
        for secret in secrets.iter().chain(&["s3cret-query"]) {
            let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
            let base64 = STANDARD.encode(secret);
            for said in [*secret, &percent, base64.trim_end_matches('=')] {
                assert!(!response.contains(said), "{said} in {response}");
            }
        }
        assert!(!response.contains("s3cret"), "{response}");
    }
}
