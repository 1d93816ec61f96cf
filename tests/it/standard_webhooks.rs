//! What the client signs, the official libraries of Standard Webhooks verify; what was changed on the way, they don't.

pub(crate) mod libraries;

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::DateTime;
use bytes::Bytes;
use certhookd::model::Message;
use certhookd::platform::Endpoint;
use serde_json::{Value, json};

use crate::sender::support::{self, Received, delivered, endpoint, message, now};

const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

const ID: &str = "674700000000000000000001";
const BODY: &str =
    "{\"_id\":\"674700000000000000000001\",\"name\":\"Sécurité 🏅 \\\"é\\\" \u{2028}\\u0007\",\"score\":1e21}";

const NO_MATCH: &str = "No matching signature found";
const OLD_TIME: &str = "Message timestamp too old";
const NO_HEADERS: &str = "Missing required headers";

/// What arrives when the real client sends, signed with these secrets at this time.
async fn sent(secrets: &[&str], at: DateTime) -> Received {
    let receiver = support::receiver().await;
    let endpoint = Endpoint {
        signing_secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        ..endpoint(&receiver.url())
    };
    let message = Message {
        body: Bytes::from_static(BODY.as_bytes()),
        ..message()
    };
    delivered(support::client().attempt(&endpoint, &message, at).await);
    receiver.requests().remove(0)
}

fn with_header(mut received: Received, name: &'static str, value: String) -> Received {
    received.headers.insert(name, value.parse().unwrap());
    received
}

fn with_body(mut received: Received, body: String) -> Received {
    received.body = body.into();
    received
}

/// Requests, the secret to verify each with, and what comes of it.
async fn cases() -> Vec<(&'static str, Received, &'static str, &'static str)> {
    let now = now();
    let long_ago = DateTime::from_millis(now.timestamp_millis() - 600_000);
    let rotating = sent(&[NEW, OLD], now).await;
    let timestamp = now.timestamp_millis().div_euclid(1000) + 1;
    let changed = |from, to| with_body(rotating.clone(), BODY.replace(from, to));
    vec![
        ("one secret", sent(&[NEW], now).await, NEW, ID),
        ("rotation, the new one", rotating.clone(), NEW, ID),
        ("rotation, the old one", rotating.clone(), OLD, ID),
        ("a secret that did not sign", rotating.clone(), OTHER, NO_MATCH),
        ("body changed", changed("Sécurité", "Securite"), NEW, NO_MATCH),
        (
            "body printed anew",
            changed("1e21", "1000000000000000000000"),
            OLD,
            NO_MATCH,
        ),
        (
            "id changed",
            with_header(rotating.clone(), "webhook-id", "another".into()),
            NEW,
            NO_MATCH,
        ),
        (
            "time changed",
            with_header(rotating, "webhook-timestamp", timestamp.to_string()),
            NEW,
            NO_MATCH,
        ),
        ("replayed", sent(&[NEW], long_ago).await, NEW, OLD_TIME),
        ("unsigned", sent(&[], now).await, NEW, NO_HEADERS),
    ]
}

async fn check(command: Command) {
    let cases = cases().await;
    let requests: Vec<Value> = cases
        .iter()
        .map(|(_, request, secret, _)| described(request, secret))
        .collect();
    let results = run(command, &json!(requests));
    assert_eq!(results.len(), cases.len());
    for ((name, _, _, expected), result) in cases.iter().zip(results) {
        assert_eq!(result, *expected, "{name}");
    }
}

fn described(request: &Received, secret: &str) -> Value {
    let headers: serde_json::Map<String, Value> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    json!({ "secret": secret, "headers": headers, "body": STANDARD.encode(&request.body) })
}

fn run(mut command: Command, input: &Value) -> Vec<Value> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_official_javascript_library_verifies() {
    let mut node = libraries::node();
    node.arg(libraries::data("verify.mjs"));
    check(node).await;
}

#[tokio::test]
async fn the_official_python_library_verifies() {
    let mut python = libraries::python();
    python.arg(libraries::data("verify.py"));
    check(python).await;
}
