//! Encrypted secrets of endpoints, from the platform's hand to the receiver.

mod shown;

use std::process::Stdio;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::envelope::new_key;
use certhookd::sandbox::Response;
use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::fixture::{Fixture, Outcome, expired};
use crate::receivers::page::block_of;
use crate::standard_webhooks::libraries;

const PAGE: &str = include_str!("../../docs/endpoints.md");
const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A fixture whose file of keys holds these lines.
async fn fixture_with(keys: &str) -> Fixture {
    let fixture = Fixture::new().await;
    let path = fixture.file("secret-keys", keys);
    fixture.with(&format!("secrets.key_file = {path:?}"))
}

/// Runs the page's code for Node.js: the envelopes of these fields and values.
fn encrypt_with_node(key: &str, organization: &str, endpoint: &str, values: &[(&str, &str)]) -> Vec<String> {
    const CALL: &str = "import { encrypt } from \"./encrypt.mjs\";\n\
        const [key, organization, endpoint, values] = JSON.parse(process.argv[2]);\n\
        console.log(JSON.stringify(values.map(([field, value]) => encrypt(key, organization, endpoint, field, value))));";
    let mut node = libraries::node();
    let folder = tempfile::tempdir_in(node.get_current_dir().unwrap()).unwrap();
    std::fs::write(folder.path().join("encrypt.mjs"), block_of(PAGE, "run: encrypt.mjs")).unwrap();
    let call = folder.path().join("call.mjs");
    std::fs::write(&call, CALL).unwrap();
    let arguments = json!([key, organization, endpoint, values]).to_string();
    let output = node.arg(call).arg(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `certhookd encrypt` with these arguments and this input.
async fn encrypt(fixture: &Fixture, arguments: &[&str], input: &str) -> Outcome {
    let mut command = fixture.command(&[&["encrypt"], arguments].concat());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    Outcome::from(child.wait_with_output().await.unwrap())
}

async fn put(fixture: &Fixture, organization: ObjectId, endpoints: Vec<Document>) {
    let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } };
    fixture.member_configs().insert_one(config).await.unwrap();
}

fn bearer(mut endpoint: Document, token: &str) -> Document {
    endpoint.insert("auth", doc! { "authType": "bearer_token", "token": token });
    endpoint
}

fn id(endpoint: &Document) -> String {
    endpoint.get_object_id("_id").unwrap().to_hex()
}

fn out_of_service(line: &Value) -> bool {
    line["message"] == "an endpoint is out of service until its configuration is corrected; the others go on"
}

#[tokio::test]
async fn what_the_page_s_code_for_node_encrypts_is_sent_and_nowhere_shown() {
    let key = new_key().unwrap();
    let fixture = fixture_with(&key).await;
    let organization = ObjectId::new();
    let sick = Response::status(StatusCode::SERVICE_UNAVAILABLE).body("you said Bearer hunter2-sick");
    fixture
        .receiver
        .script("/sick", [sick, Response::status(StatusCode::OK)]);
    let [mut fine, sick, mut copied] = ["/fine", "/sick", "/copied"].map(|path| fixture.endpoint(path));
    let values = [
        ("auth.token", "hunter2-fine"),
        ("signingSecrets", SIGNING_SECRET),
        ("headers.x-team", "hunter2-team"),
    ];
    let upper = organization.to_hex().to_uppercase();
    let made = encrypt_with_node(&key, &upper, &id(&fine), &values);
    fine = bearer(fine, &made[0]);
    fine.extend(doc! { "signingSecrets": [&made[1]], "headers": { "X-Team": &made[2] } });
    copied = bearer(copied, &made[0]);
    let arguments = [
        "--organization",
        &upper,
        "--endpoint",
        &id(&sick),
        "--field",
        "auth.token",
    ];
    let by_hand = encrypt(&fixture, &arguments, "hunter2-sick\n").await;
    let sick = bearer(sick, by_hand.stdout.trim());
    put(&fixture, organization, vec![fine, sick, copied.clone()]).await;
    let certificate = expired(organization);
    fixture.badge_users().insert_one(&certificate).await.unwrap();

    let daemon = fixture.daemon().await;
    let requests = fixture.wait_for(|requests| requests.len() == 3).await;
    let sent = |path: &str| requests.iter().find(|request| request.path == path).unwrap();
    assert_eq!(sent("/fine").header("authorization"), "Bearer hunter2-fine");
    assert_eq!(sent("/fine").header("x-team"), "hunter2-team");
    assert!(sent("/fine").header("webhook-signature").starts_with("v1,"));
    assert_eq!(sent("/sick").header("authorization"), "Bearer hunter2-sick");
    let line = daemon.wait_for(out_of_service).await;
    assert_eq!(
        (&line["organization"], &line["endpoint"]),
        (&organization.to_hex().into(), &id(&copied).into())
    );
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2).await;
    let outbox = format!("{:?}", fixture.deliveries(doc! {}).await);
    assert!(outbox.contains("you said (hidden)"), "{outbox}");
    let shown = fixture.outcome(&["status", "--json"]).await;
    assert!(
        shown
            .stdout
            .contains("was encrypted for another organization, endpoint or field"),
        "{shown:?}"
    );
    let check = fixture.outcome(&["check"]).await;
    assert!(
        check
            .stdout
            .contains(&format!("{} is out of service: `auth`: `token` can't", id(&copied))),
        "{check:?}"
    );
    for text in [outbox, format!("{:?}", daemon.lines()), format!("{shown:?} {check:?}")] {
        assert!(!text.contains("hunter2") && !text.contains("MfKQ9r8G"), "{text}");
    }
}

#[tokio::test]
async fn an_endpoint_goes_on_once_its_key_is_there_and_stops_when_it_is_dropped() {
    let (old, new) = (new_key().unwrap(), new_key().unwrap());
    let fixture = fixture_with(&format!("{new}\n")).await;
    let organization = ObjectId::new();
    let endpoint = fixture.endpoint("/a");
    let made = encrypt_with_node(
        &old,
        &organization.to_hex(),
        &id(&endpoint),
        &[("auth.token", "hunter2")],
    );
    put(
        &fixture,
        organization,
        vec![bearer(endpoint, &made[0]), fixture.endpoint("/b")],
    )
    .await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    let key_id = old.split(':').next().unwrap();
    let unknown = |line: &Value| {
        out_of_service(line)
            && line["reason"]
                .as_str()
                .unwrap()
                .contains(&format!("the key {key_id}, which is not"))
    };
    daemon.wait_for(unknown).await;
    fixture.wait_for(|requests| requests.len() == 1).await;

    fixture.file("secret-keys", &format!("{new}\n{old}\n"));
    daemon.signal(Signal::SIGHUP);
    let requests = fixture.wait_for(|requests| requests.len() == 2).await;
    assert_eq!(requests[1].header("authorization"), "Bearer hunter2");

    fixture.file("secret-keys", &format!("{new}\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_nth(unknown, 2).await;
    // A damaged file is refused, the keys stay.
    fixture.file("secret-keys", "hunter3");
    daemon.signal(Signal::SIGHUP);
    let refused = daemon
        .wait_for(|line| line["message"].as_str().unwrap().starts_with("reload refused"))
        .await;
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("secrets.key: expected lines of KEYID:BASE64"),
        "{refused}"
    );
    assert!(!refused.to_string().contains("hunter3"));
}

#[tokio::test]
async fn encrypt_says_what_it_needs() {
    let key = new_key().unwrap();
    let (with_key, without) = (fixture_with(&key).await, Fixture::new().await);
    let printed = encrypt(&without, &["--new-key"], "").await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert_eq!(printed.stdout.lines().count(), 1);
    assert!(certhookd::envelope::EncryptionKeys::parse(&printed.stdout).is_ok());
    let (organization, endpoint) = (ObjectId::new().to_hex(), ObjectId::new().to_hex());
    let arguments = |field: &'static str| {
        [
            "--organization",
            &organization,
            "--endpoint",
            &endpoint,
            "--field",
            field,
        ]
        .map(str::to_owned)
    };
    let hashed = format!("u{endpoint}");
    let table = [
        (&with_key, arguments("auth.token").to_vec(), "hunter2", 0, ""),
        (&with_key, arguments("headers.X-Team").to_vec(), "hunter2\r\n", 0, ""),
        (
            &without,
            arguments("auth.token").to_vec(),
            "hunter2",
            78,
            "no key is configured",
        ),
        (
            &with_key,
            arguments("auth.token").to_vec(),
            "\n",
            2,
            "expected the value on standard input",
        ),
        (
            &with_key,
            arguments("auth.token").to_vec(),
            "enc:v1:k1:hunter2\n",
            2,
            "found one that is encrypted",
        ),
        (&with_key, arguments("auth.tokn").to_vec(), "hunter2", 2, "auth.token"),
        (
            &with_key,
            arguments("headers.a b").to_vec(),
            "hunter2",
            2,
            "headers.NAME",
        ),
        (
            &with_key,
            arguments("auth.token")[..4].to_vec(),
            "hunter2",
            2,
            "--field",
        ),
        (
            &with_key,
            vec!["--new-key".into(), "--field".into(), "auth.token".into()],
            "",
            2,
            "--field",
        ),
        (
            &with_key,
            ["--organization", "acme", "--endpoint", &hashed, "--field", "auth.token"]
                .map(str::to_owned)
                .to_vec(),
            "hunter2",
            2,
            "24 hex digits",
        ),
    ];
    for (fixture, arguments, input, code, said) in table {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let outcome = encrypt(fixture, &arguments, input).await;
        assert_eq!(outcome.code, Some(code), "{arguments:?} {outcome:?}");
        let log = format!("{:?}", outcome.log);
        assert!(log.contains(said) && !log.contains("hunter2"), "{arguments:?} {log}");
        assert_eq!(outcome.stdout.starts_with("enc:v1:k"), code == 0, "{outcome:?}");
    }
}
