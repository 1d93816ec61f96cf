//! `certhookd send-test`: a sample event to a real receiver.

use bson::doc;
use certhookd::sandbox::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;

use crate::fixture::{Fixture, Outcome};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// An endpoint full of secrets, and how its organization knows it.
async fn guarded(fixture: &Fixture) -> (String, String) {
    let mut endpoint = fixture.endpoint("/hook?key=s3cret-query");
    let id = endpoint.get_object_id("_id").unwrap().to_hex();
    endpoint.insert("name", "HR \u{1b}[2J");
    endpoint.insert("signingSecrets", [SECRET]);
    endpoint.insert("headers", doc! { "X-Tenant": "s3cret-header" });
    endpoint.insert("auth", doc! { "authType": "bearer_token", "token": "s3cret-token" });
    (fixture.organization(vec![endpoint]).await.to_hex(), id)
}

/// Neither the outbox nor the certificates know of it.
async fn assert_untouched(fixture: &Fixture) {
    assert_eq!(
        fixture.database.list_collection_names().await.unwrap(),
        ["memberconfigs"]
    );
}

fn error(outcome: &Outcome) -> &str {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.errors()[0]
}

#[tokio::test]
async fn a_sample_goes_the_real_way_and_its_answer_is_shown_without_secrets_or_control_characters() {
    let fixture = Fixture::new().await;
    let (organization, id) = guarded(&fixture).await;
    let hostile = HeaderValue::from_bytes("red \u{9b}31m".as_bytes()).unwrap();
    let response = Response::ok()
        .header(HeaderName::from_static("x-colour"), hostile)
        .body("\u{1b}[2Jyou sent Bearer s3cret-token");
    fixture.receiver.script("/hook", [response]);
    let sent = fixture.outcome(&["send-test", "--endpoint", &id]).await;
    assert_eq!(sent.code, Some(0), "{sent:?}");

    let request = fixture.receiver.requests().remove(0);
    assert_eq!(request.header("x-webhook-test"), "true");
    assert_eq!(request.header("x-webhook-event"), "certificate_completed");
    assert_eq!(request.header("authorization"), "Bearer s3cret-token");
    Webhook::new(SECRET)
        .unwrap()
        .verify(&request.body, &request.headers)
        .unwrap();
    let payload: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(payload["_ownerId"], organization);

    let address = fixture.receiver.address();
    for shown in [
        r"HR \u{1b}[2J",
        &*format!("POST http://{address}/hook?(hidden)\n"),
        "authorization: (hidden)\n",
        "x-tenant: (hidden)\n",
        request.header("webhook-signature"),
        "HTTP/1.1 200 OK\n",
        r"x-colour: red \u{9b}31m",
        r"\u{1b}[2Jyou sent (hidden)",
        "result    delivered\n",
    ] {
        assert!(sent.stdout.contains(shown), "no {shown} in {}", sent.stdout);
    }
    assert!(!format!("{sent:?}").contains("s3cret"), "{sent:?}");
    assert_untouched(&fixture).await;
}

#[tokio::test]
async fn what_is_no_2xx_fails_and_says_why() {
    let fixture = Fixture::new().await;
    let (_, id) = guarded(&fixture).await;
    fixture
        .receiver
        .script("/hook", [Response::status(StatusCode::SERVICE_UNAVAILABLE)]);
    let failed = fixture.outcome(&["send-test", "--endpoint", &id]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stdout.contains("result    status 503\ntime "), "{failed:?}");

    let fixture = fixture.with("delivery.allow_networks = []");
    let refused = fixture.outcome(&["send-test", "--endpoint", &id]).await;
    assert!(error(&refused).starts_with("nothing was sent: address refused: 127.0.0.1"));
    assert_eq!(fixture.receiver.total(), 1);
}

#[tokio::test]
async fn a_dry_run_shows_a_signature_that_verifies_and_sends_nothing() {
    let fixture = Fixture::new().await;
    let (organization, id) = guarded(&fixture).await;
    let key = format!("{organization}/{id}");
    let arguments = [
        "send-test",
        "--dry-run",
        "--endpoint",
        &key,
        "--event",
        "certificate_expired",
    ];
    let shown = fixture.outcome(&arguments).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let lines = || shown.stdout.lines().map(str::trim);
    let headers: HeaderMap = lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?)))
        .collect();
    assert_eq!(headers["x-webhook-event"], "certificate_expired");
    assert_eq!(headers["x-webhook-test"], "true");
    let body = lines().find(|line| line.starts_with('{')).unwrap();
    Webhook::new(SECRET).unwrap().verify(body.as_bytes(), &headers).unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["expiryReminderSent"], true);
    assert!(!format!("{shown:?}").contains("s3cret"), "{shown:?}");
    assert_eq!(fixture.receiver.total(), 0);
    assert_untouched(&fixture).await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_clear_is_an_error_that_names_candidates() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.endpoint("/one"), fixture.endpoint("/two"));
    let id = one.get_object_id("_id").unwrap().to_hex();
    let mut refused = fixture.endpoint("/refused");
    refused.insert("url", "ftp://example.com/");
    let refused_id = refused.get_object_id("_id").unwrap().to_hex();
    let a = fixture.organization(vec![one.clone(), two, refused]).await;
    let b = fixture.organization(vec![one]).await;
    let asked = async |wanted: &str| fixture.outcome(&["send-test", "--endpoint", wanted]).await;

    let several = asked(&id).await;
    for key in [format!("{a}/{id} (/one)"), format!("{b}/{id} (/one)")] {
        assert!(error(&several).contains(&key), "{several:?}");
    }
    let unknown = asked("/tow").await;
    let nearest = error(&unknown).split("the nearest: ").nth(1).unwrap();
    assert!(nearest.split(", ").next().unwrap().ends_with("(/two)"), "{unknown:?}");
    assert!(error(&asked(&refused_id).await).contains("is out of service: "));
    assert!(error(&asked("email").await).contains("no webhook endpoint"));
    assert_eq!(fixture.receiver.total(), 0);
}
