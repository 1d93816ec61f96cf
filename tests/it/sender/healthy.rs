//! The request as a receiver sees it, and what its answers mean.

use std::time::Duration;

use bson::DateTime;
use certhookd::model::Outcome;
use certhookd::platform::{Auth, Endpoint};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use secrecy::SecretString;
use standardwebhooks::Webhook;

use super::support::{self, BODY, Received, delivered, endpoint, failure, message, now};

const NEW_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// What arrives of an endpoint made by `configure`.
async fn received(configure: impl FnOnce(&mut Endpoint), at: DateTime) -> Received {
    let receiver = support::receiver().await;
    let mut endpoint = endpoint(&receiver.url());
    configure(&mut endpoint);
    delivered(support::client().attempt(&endpoint, &message(), at).await);
    receiver.requests().remove(0)
}

fn text<'r>(received: &'r Received, name: &str) -> Vec<&'r str> {
    received
        .headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

#[tokio::test]
async fn the_request_is_in_the_contracts_words() {
    let got = received(|_| {}, DateTime::from_millis(1_732_703_400_999)).await;
    assert_eq!(
        (got.method.clone(), got.uri.to_string()),
        (Method::POST, "/hook?tenant=7".into())
    );
    assert_eq!(got.body, BODY);
    let expected = [
        ("content-type", "application/json"),
        ("user-agent", concat!("certhookd/", env!("CARGO_PKG_VERSION"))),
        ("x-webhook-source", "beedeez"),
        ("x-webhook-event", "certificate_expired"),
        (
            "webhook-id",
            "certificate_expired_674700000000000000000001_1732703400000",
        ),
        ("webhook-timestamp", "1732703400"),
    ];
    for (name, value) in expected {
        assert_eq!(text(&got, name), [value], "{name}");
    }
    assert!(text(&got, "webhook-signature").is_empty() && text(&got, "authorization").is_empty());
}

#[tokio::test]
async fn every_secret_signs_and_verifies() {
    let secrets = || [NEW_SECRET, OLD_SECRET].map(SecretString::from).to_vec();
    let got = received(|endpoint| endpoint.signing_secrets = secrets(), now()).await;
    for secret in [NEW_SECRET, OLD_SECRET] {
        Webhook::new(secret).unwrap().verify(&got.body, &got.headers).unwrap();
    }
    let other = Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    assert!(other.verify(&got.body, &got.headers).is_err());
    assert_eq!(text(&got, "webhook-signature")[0].split(' ').count(), 2);
}

#[tokio::test]
async fn authentication_by_type() {
    let secret = || SecretString::from("s3cret");
    let basic = Auth::Basic {
        username: "ada".into(),
        password: secret(),
    };
    let key = |header| Auth::ApiKey {
        header: HeaderName::from_static(header),
        key: secret(),
    };
    let table = [
        (Auth::Bearer { token: secret() }, "authorization", "Bearer s3cret"),
        (basic, "authorization", "Basic YWRhOnMzY3JldA=="),
        (key("x-api-key"), "x-api-key", "s3cret"),
        (key("x-token"), "x-token", "s3cret"),
    ];
    for (auth, header, value) in table {
        let got = received(|endpoint| endpoint.auth = auth, now()).await;
        assert_eq!(text(&got, header), [value]);
    }
}

#[tokio::test]
async fn credentials_in_the_url_authenticate_and_stay_out_of_the_request_line() {
    let set = |endpoint: &mut Endpoint| {
        endpoint.url.set_username("ada").unwrap();
        endpoint.url.set_password(Some("p@ss")).unwrap();
    };
    let got = received(set, now()).await;
    assert_eq!(text(&got, "authorization"), ["Basic YWRhOnBAc3M="]);
    assert!(text(&got, "host")[0].starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn the_endpoints_headers_add_but_replace_nothing_reserved() {
    let own = [
        ("x-tenant", "7"),
        ("user-agent", "their own"),
        ("authorization", "theirs"),
        ("host", "evil.test"),
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("content-type", "text/plain"),
        ("webhook-id", "forged"),
        ("webhook-timestamp", "0"),
        ("webhook-signature", "v1,forged"),
        ("webhook-other", "forged"),
    ];
    let headers: HeaderMap = own
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let set = |endpoint: &mut Endpoint| {
        endpoint.headers = headers;
        endpoint.auth = Auth::Bearer { token: "ours".into() };
    };
    let got = received(set, now()).await;
    assert_eq!(text(&got, "x-tenant"), ["7"]);
    assert_eq!(text(&got, "user-agent"), ["their own"]);
    assert_eq!(text(&got, "authorization"), ["Bearer ours"]);
    assert_eq!(text(&got, "content-type"), ["application/json"]);
    assert_eq!(text(&got, "webhook-id"), [message().event_id.as_str()]);
    assert!(text(&got, "host")[0].starts_with("127.0.0.1:"));
    assert_eq!(text(&got, "content-length"), [BODY.len().to_string()]);
    for absent in ["transfer-encoding", "connection", "webhook-signature", "webhook-other"] {
        assert!(text(&got, absent).is_empty(), "{absent}");
    }
    assert_ne!(text(&got, "webhook-timestamp"), ["0"]);
}

/// What can't be authenticated or signed as configured is not sent, and its reason tells no secret.
#[tokio::test]
async fn what_cannot_be_sent_as_configured_is_not_sent() {
    let receiver = support::receiver().await;
    let with = |auth, secrets: &[&str]| Endpoint {
        auth,
        signing_secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        ..endpoint(&receiver.url())
    };
    let host = Auth::ApiKey {
        header: http::header::HOST,
        key: "s3cret".into(),
    };
    let table = [
        (
            with(
                Auth::Bearer {
                    token: "s3cret\r\nX-Evil: 1".into(),
                },
                &[],
            ),
            "auth: its credentials hold",
        ),
        (with(host, &[]), "auth: the header host is reserved"),
        (
            with(Auth::None, &[NEW_SECRET, "whsec_s3cret!"]),
            "signing secret 2 is empty or not base64",
        ),
        (with(Auth::None, &["whsec_"]), "signing secret 1 is empty or not base64"),
    ];
    for (endpoint, expected) in table {
        let Outcome::Cancelled { reason } = support::client().attempt(&endpoint, &message(), now()).await else {
            panic!("was sent: {expected}");
        };
        assert!(reason.starts_with(expected) && !reason.contains("s3cret"), "{reason}");
    }
    assert!(receiver.requests().is_empty());
}

async fn answered(status_line: &str) -> Outcome {
    let url = support::answering(&format!("HTTP/1.1 {status_line}\r\n\r\n")).await;
    support::client().attempt(&endpoint(&url), &message(), now()).await
}

#[tokio::test]
async fn the_status_decides() {
    for (line, status) in [
        ("200 OK\r\nContent-Length: 0", 200),
        ("202 Accepted\r\nContent-Length: 0", 202),
        ("204 No Content", 204),
    ] {
        assert_eq!(delivered(answered(line).await), status);
    }
    for status in [304, 400, 401, 404, 500, 599] {
        let failed = failure(answered(&format!("{status} X\r\nContent-Length: 0")).await);
        assert_eq!((failed.status, failed.retry_after), (Some(status), None));
        assert!(
            failed.reason.starts_with(&format!("status {status}")),
            "{}",
            failed.reason
        );
    }
    let gone = answered("410 Gone\r\nContent-Length: 0").await;
    assert!(
        matches!(&gone, Outcome::Gone(failure) if failure.status == Some(410)),
        "{gone:?}"
    );
}

#[tokio::test]
async fn retry_after_is_told() {
    let failed = failure(answered("503 Busy\r\nRetry-After: 7\r\nContent-Length: 0").await);
    assert_eq!(failed.retry_after, Some(Duration::from_secs(7)));
    let failed = failure(answered("500 Broken\r\nRetry-After: 7\r\nContent-Length: 0").await);
    assert_eq!(failed.retry_after, None);
}
