//! Where a secret could be seen.

use bson::oid::ObjectId;
use bson::{Bson, Document, RawBsonRef, doc};
use certhookd::envelope::{EncryptionKeys, Envelopes, new_key};
use certhookd::model::{EndpointKey, id_part};
use certhookd::sandbox::Response;
use http::StatusCode;
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair};

use super::{SIGNING_SECRET, fixture_with, id, out_of_service, put};
use crate::fixture::{Daemon, Fixture, expired, expired_id};
use crate::web::{LISTEN, address, get};

/// Keys come and go while a receiver says back what it was sent, and deliveries wait.
#[tokio::test]
async fn no_place_shows_a_secret_or_a_key_while_keys_change_and_deliveries_wait() {
    let (old, new) = (new_key().unwrap(), new_key().unwrap());
    let fixture = fixture_with(&old).await;
    let settings = format!("secrets.key_file = {:?}\n{LISTEN}", fixture.file("secret-keys", &old));
    let fixture = fixture.with(&settings);
    let echo = |said| Response::status(StatusCode::SERVICE_UNAVAILABLE).body(said);
    let (organization, owner) = (ObjectId::new(), "not an ObjectId: \u{1f511} \u{202e}");
    let odd = format!("{organization}/{}", id_part(RawBsonRef::String(owner)));
    let pem = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["x.test".to_owned()])
        .unwrap()
        .self_signed(&pem)
        .unwrap()
        .pem();
    let encrypt = |endpoint: &Document, field: &str, value: &str| {
        let key = match endpoint.get("_id") {
            Some(Bson::String(_)) => EndpointKey::from_stored(&odd),
            _ => EndpointKey::from_stored(&format!("{organization}/{}", id(endpoint))),
        };
        let keys = EncryptionKeys::parse(&old).unwrap();
        let envelopes = Envelopes {
            keys: &keys,
            endpoint: &key,
        };
        envelopes.encrypt(field, &value.into()).unwrap()
    };
    let mut endpoints = ["/token", "/basic", "/key", "/odd"].map(|path| fixture.endpoint(path));
    endpoints[3].insert("_id", owner);
    let auths = endpoints.each_ref().map(|endpoint| {
        let of = |field: &str, value: &str| encrypt(endpoint, &format!("auth.{field}"), value);
        match endpoint.get_str("name").unwrap() {
            "/basic" => doc! { "authType": "basic_auth", "username": "x", "password": of("password", "hunter2-word") },
            "/key" => doc! { "authType": "api_key", "key": of("key", "hunter2-key") },
            _ => doc! { "authType": "bearer_token", "token": of("token", "hunter2-token") },
        }
    });
    for (endpoint, auth) in endpoints.iter_mut().zip(auths) {
        let header = encrypt(endpoint, "headers.x-team", "hunter2-team");
        let client_key = encrypt(endpoint, "tls.clientKey", &pem.serialize_pem());
        let signing = encrypt(endpoint, "signingSecrets", SIGNING_SECRET);
        endpoint.extend(doc! {
            "auth": auth, "headers": { "X-Team": header }, "signingSecrets": [signing],
            "tls": { "clientCert": &cert, "clientKey": client_key },
        });
        let name = endpoint.get_str("name").unwrap();
        let said = match name {
            "/basic" => "got hunter2-word, hunter2-team",
            "/key" => "got hunter2-key, hunter2-team",
            _ => "got hunter2-token, hunter2-team",
        };
        fixture.receiver.script(name, [echo(said)]);
    }
    put(&fixture, organization, endpoints.to_vec()).await;
    let certificate = expired(organization);
    fixture.badge_users().insert_one(&certificate).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture
        .wait_for_deliveries(doc! { "state": "pending", "attempts": { "$gte": 2 } }, 4)
        .await;

    // Without the old key all wait; with both they go on.
    fixture.file("secret-keys", &new);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_nth(out_of_service, 4).await;
    let mut shown = everywhere(&fixture, &daemon, &expired_id(&certificate), &odd).await;
    endpoints.iter().for_each(|endpoint| {
        fixture
            .receiver
            .script(endpoint.get_str("name").unwrap(), [Response::ok()])
    });
    fixture.file("secret-keys", &format!("{new}\n{old}"));
    daemon.signal(Signal::SIGHUP);
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 4).await;
    shown += &everywhere(&fixture, &daemon, &expired_id(&certificate), &odd).await;
    assert!(shown.contains("got (hidden), (hidden)"));
    let requests = fixture.receiver.requests();
    let last = requests.iter().rfind(|request| request.path == "/odd").unwrap();
    assert_eq!(last.header("authorization"), "Bearer hunter2-token");
    for endpoint in &endpoints {
        let path = endpoint.get_str("name").unwrap();
        let first = requests.iter().find(|request| request.path == path).unwrap();
        assert_eq!(first.header("x-team"), "hunter2-team");
    }
    let key = |line: &str| line.split_once(':').unwrap().1.to_owned();
    let pem = pem.serialize_pem();
    for secret in [
        &key(&old),
        &key(&new),
        "hunter2",
        "MfKQ9r8G",
        pem.lines().nth(1).unwrap(),
        "PRIVATE KEY",
    ] {
        assert!(!shown.contains(secret), "{secret}");
    }
}

/// All that the daemon and the commands show of an event and an endpoint.
async fn everywhere(fixture: &Fixture, daemon: &Daemon, event: &str, endpoint: &str) -> String {
    let address = address(daemon).await;
    let mut shown = format!("{:?}", daemon.lines());
    for path in [
        "/",
        "/metrics",
        "/readyz",
        &format!("/endpoint/{endpoint}"),
        &format!("/show?id={event}"),
    ] {
        shown += &get(address, path).await.body;
    }
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["show", event],
        &["deliveries"],
        &["check"],
    ] {
        shown += &format!("{:?}", fixture.outcome(arguments).await);
    }
    shown + &format!("{:?}", fixture.deliveries(doc! {}).await)
}
