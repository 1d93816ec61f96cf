//! Tokens that work: asked for as the standard says, kept, shared, renewed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::DateTime;

use super::support::{Fixture, ID, Receiver, SECRET, answering, credentials, endpoint};
use crate::sender::support::{self, delivered, failure, now};
use certhookd::platform::Auth;

fn later(seconds: i64) -> DateTime {
    DateTime::from_millis(now().timestamp_millis() + 1000 * seconds)
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_goes_with_every_request() {
    let fixture = Fixture::new().await;
    for _ in 0..3 {
        assert_eq!(delivered(fixture.attempt().await), 200);
    }
    assert_eq!(fixture.receiver.tokens(), ["token-1"; 3]);
    let [asked] = &*fixture.server.asked() else {
        panic!("asked {} times", fixture.server.count())
    };
    assert_eq!(asked.form["grant_type"], "client_credentials");
    assert_eq!(asked.form["scope"], "events:write");
    assert_eq!(asked.form.len(), 2, "the secret is in the header alone");
    // RFC 6749, 2.3.1: form-encoded, then joined by a colon.
    let basic = STANDARD.encode("the+client%3A+%C3%A9:s3cr3t%3A+%2B%2F%25");
    assert_eq!(asked.authorization(), Some(&*format!("Basic {basic}")));
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
}

#[tokio::test]
async fn a_token_is_renewed_shortly_before_it_expires() {
    let fixture = Fixture::new().await;
    for seconds in [0, 3560, 3580, 3600] {
        delivered(fixture.attempt_at(later(seconds)).await);
    }
    assert_eq!(fixture.receiver.tokens(), ["token-1", "token-1", "token-2", "token-2"]);
}

#[tokio::test]
async fn a_token_of_untold_life_is_used_for_five_minutes() {
    let fixture = Fixture::new().await;
    fixture.server.answers([(200, r#"{"access_token":"untold"}"#)]);
    for seconds in [0, 290, 310] {
        delivered(fixture.attempt_at(later(seconds)).await);
    }
    assert_eq!(fixture.receiver.tokens(), ["untold", "untold", "token-1"]);
}

#[tokio::test]
async fn attempts_at_once_share_one_fetch() {
    let fixture = Fixture::new().await;
    for outcome in fixture.attempts().await {
        delivered(outcome);
    }
    assert_eq!(fixture.receiver.tokens(), ["token-1"; 5]);
    assert_eq!(fixture.server.count(), 1);
}

#[tokio::test]
async fn other_credentials_have_other_tokens() {
    let mut fixture = Fixture::new().await;
    let own = || credentials(&fixture.server.url());
    let (mut scope, mut secret, mut id, mut url) = (own(), own(), own(), own());
    scope.scope = None;
    secret.client_secret = "rotated".into();
    id.client_id = "another".into();
    url.token_url.set_path("/another");
    let all = [own(), scope, secret, id, url];
    for _ in 0..2 {
        for credentials in all.clone() {
            fixture.endpoint.auth = Auth::OAuth2(credentials);
            delivered(fixture.attempt().await);
        }
    }
    assert_eq!(fixture.server.count(), 5);
    assert_eq!(fixture.receiver.tokens()[..5], fixture.receiver.tokens()[5..]);
    assert!(!fixture.server.asked()[1].form.contains_key("scope"));
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_within_the_attempt() {
    let fixture = Fixture::new().await;
    delivered(fixture.attempt().await);
    fixture.receiver.accept("token-2");
    delivered(fixture.attempt().await);
    delivered(fixture.attempt().await);
    assert_eq!(fixture.receiver.tokens(), ["token-1", "token-1", "token-2", "token-2"]);
    assert_eq!(fixture.server.count(), 2);
}

#[tokio::test]
async fn an_endpoint_that_refuses_every_token_is_asked_twice_an_attempt() {
    let fixture = Fixture::new().await;
    fixture.receiver.accept("another's");
    let failed = failure(fixture.attempt().await);
    assert_eq!((failed.status, &*failed.reason), (Some(401), "status 401"));
    assert_eq!(fixture.receiver.tokens(), ["token-1", "token-2"]);
    assert_eq!(fixture.server.count(), 2);
}

#[tokio::test]
async fn attempts_whose_token_is_refused_at_once_share_its_renewal() {
    let fixture = Fixture::new().await;
    delivered(fixture.attempt().await);
    fixture.receiver.accept("token-2");
    for outcome in fixture.attempts().await {
        delivered(outcome);
    }
    assert_eq!(fixture.server.count(), 2);
}

#[tokio::test]
async fn a_server_that_reads_credentials_in_the_form_alone_gets_them_there() {
    let refusals = [
        (400, r#"{"error":"invalid_request"}"#),
        (400, r#"{"error":"unsupported_grant_type"}"#),
        (400, "client_id is missing"),
        (401, r#"{"error":"invalid_client"}"#),
        (200, r#"{"error":"invalid_client"}"#),
        (403, "Forbidden"),
        (
            422,
            r#"{"detail":[{"loc":["body","client_id"],"msg":"field required"}]}"#,
        ),
        (500, "<html>"),
    ];
    for refusal in refusals {
        asked_by_form_after(refusal).await;
    }
}

async fn asked_by_form_after(refusal: (u16, &str)) {
    let fixture = Fixture::new().await;
    fixture.server.answers([refusal]);
    delivered(fixture.attempt().await);
    // Renewed: by now it is known what the server reads.
    delivered(fixture.attempt_at(later(4000)).await);
    let asked = fixture.server.asked();
    let places: Vec<_> = asked
        .iter()
        .map(|asked| {
            (
                asked.authorization().is_some(),
                asked.form.contains_key("client_secret"),
            )
        })
        .collect();
    assert_eq!(places, [(true, false), (false, true), (false, true)]);
    assert_eq!(
        (&*asked[1].form["client_id"], &*asked[1].form["client_secret"]),
        (ID, SECRET)
    );
}

#[tokio::test]
async fn what_servers_call_a_bearer_token_is_one() {
    let types = [
        "Bearer",
        "BEARER",
        "BearerToken",
        "bearer_token",
        "Bearer Token",
        " bearer ",
        "",
    ];
    let named = types.map(|name| format!(r#"{{"access_token":"given","token_type":"{name}"}}"#));
    let unnamed = [
        r#"{"access_token":"given"}"#,
        r#"{"access_token":"given","token_type":null}"#,
    ];
    for body in named.into_iter().chain(unnamed.map(Into::into)) {
        let fixture = Fixture::new().await;
        fixture.server.answers([(200, &body)]);
        assert_eq!(delivered(fixture.attempt().await), 200, "{body}");
        assert_eq!(fixture.receiver.tokens(), ["given"], "{body}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_an_answer_does_not_count() {
    let fixture = Fixture::new().await;
    fixture
        .server
        .answers([(200, "\u{feff}{\"access_token\":\"marked\",\"expires_in\":60}")]);
    delivered(fixture.attempt().await);
    assert_eq!(fixture.receiver.tokens(), ["marked"]);
    let fixture = Fixture::new().await;
    let denied = "\u{feff}{\"error\":\"invalid_scope\"}";
    fixture.server.answers([(400, denied), (400, denied)]);
    assert_eq!(
        failure(fixture.attempt().await).reason,
        "oauth2: token server answered 400 invalid_scope"
    );
}

#[tokio::test]
async fn a_token_in_an_answer_with_an_odd_head_is_used() {
    let many = "X-Filler: f\r\n".repeat(150);
    let table = [
        "X-Folded: a\r\n b\r\n",
        "Server : IIS\r\n",
        "X Name: 1\r\n",
        "X-Control: a\x01b\r\n",
        &many,
    ];
    for headers in table {
        let body = r#"{"access_token":"odd"}"#;
        let length = body.len();
        let url = answering(&format!(
            "HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
        let receiver = Receiver::start().await;
        let outcome = support::client()
            .attempt(&endpoint(&receiver, &url), &support::message(), now())
            .await;
        assert_eq!(delivered(outcome), 200, "{headers:?}");
        assert_eq!(receiver.tokens(), ["odd"]);
    }
}
