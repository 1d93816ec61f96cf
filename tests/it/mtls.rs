//! Receivers that demand a client's certificate, in Node.js and Python, and the daemon that shows one.

use std::path::Path;
use std::process::Command;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::envelope::{EncryptionKeys, Envelopes, new_key};
use certhookd::model::EndpointKey;
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::{Fixture, expired};
use crate::receivers::Running;
use crate::sender::tls::Authority;
use crate::standard_webhooks::libraries;
use crate::web::{LISTEN, address, get};

/// What a receiver of tests/data/mtls needs, in a folder of its own.
struct Receivers {
    servers: Authority,
    clients: Authority,
    folder: TempDir,
}

impl Receivers {
    fn new() -> Self {
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = servers.identity("127.0.0.1", 2999);
        for (name, text) in [
            ("server.pem", certificate.pem()),
            ("server-key.pem", key.serialize_pem()),
            ("clients.pem", clients.pem().to_owned()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self {
            servers,
            clients,
            folder,
        }
    }

    /// The receiver, running, and its address.
    async fn start(&self, mut command: Command, name: &str) -> (Running, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mtls").join(name);
        command.arg(script).arg(self.folder.path());
        let mut running = Running::start(command);
        let listening = running.line().await;
        let port = listening.strip_prefix("listening on port ").unwrap();
        (running, format!("https://127.0.0.1:{port}"))
    }

    /// An endpoint that trusts the receivers.
    fn endpoint(&self, url: &str, path: &str, identity: Option<(String, String)>) -> Document {
        let mut tls = doc! { "ca": self.servers.pem() };
        if let Some((certificate, key)) = identity {
            tls.extend(doc! { "clientCert": certificate, "clientKey": key });
        }
        doc! {
            "_id": ObjectId::new(), "name": path, "url": format!("{url}{path}"),
            "eventTypes": ["certificate_expired"], "tls": tls,
        }
    }
}

/// A client's certificate, named so, and its key, as PEM.
fn identity(authority: &Authority, name: &str) -> (String, String) {
    let (certificate, key) = authority.identity(name, 2999);
    (certificate.pem(), key.serialize_pem())
}

async fn put(fixture: &Fixture, organization: ObjectId, endpoints: Vec<Document>) {
    let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } };
    fixture.member_configs().insert_one(config).await.unwrap();
}

/// One who shows what is asked for gets in, encrypted key or not; a stranger, and one who shows nothing, doesn't.
async fn check(command: Command, name: &str, version: &str) {
    let key = new_key().unwrap();
    let fixture = Fixture::new().await;
    let path = fixture.file("secret-keys", &key);
    let fixture = fixture.with(&format!("secrets.key_file = {path:?}"));
    let receivers = Receivers::new();
    let (mut running, url) = receivers.start(command, name).await;
    let organization = ObjectId::new();
    let good = |name: &str| Some(identity(&receivers.clients, name));
    let stranger = Some(identity(&Authority::new("strangers"), "stranger.test"));
    let endpoints = [
        receivers.endpoint(&url, "/plain", good("plain.test")),
        encrypted(
            &key,
            organization,
            receivers.endpoint(&url, "/encrypted", good("encrypted.test")),
        ),
        receivers.endpoint(&url, "/stranger", stranger),
        receivers.endpoint(&url, "/nobody", None),
    ];
    put(&fixture, organization, endpoints.to_vec()).await;
    let certificates = [expired(organization), expired(organization)];
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let mut daemon = fixture.daemon().await;
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(running.line().await);
    }
    heard.sort_unstable();
    let expected = ["/encrypted encrypted.test", "/plain plain.test"].map(|shown| format!("{version} {shown}"));
    assert_eq!(heard, [0, 0, 1, 1].map(|index| expected[index].clone()));
    let failed = doc! { "state": "pending", "attempts": { "$gte": 1 } };
    fixture.wait_for_deliveries(failed.clone(), 4).await;
    let id = |index: usize| endpoints[index].get_object_id("_id").unwrap().to_hex();
    for delivery in fixture.deliveries(failed).await {
        let error = delivery.get_str("lastError").unwrap();
        let is_clear = match delivery.get_str("endpoint").unwrap().ends_with(&id(2)) {
            // Node.js says nothing, and closes.
            true => error.contains("the receiver refuses the client's certificate"),
            // What the other side says before it closes may get lost.
            false => error == "tls: the receiver asks for a client's certificate" || error.starts_with("connection "),
        };
        assert!(is_clear, "{error}");
    }
    assert!(daemon.stop().await.success());
    assert!(!format!("{:?}", daemon.lines()).contains("PRIVATE"));
}

fn encrypted(key: &str, organization: ObjectId, mut endpoint: Document) -> Document {
    let id = endpoint.get_object_id("_id").unwrap();
    let envelopes = Envelopes {
        keys: &EncryptionKeys::parse(key).unwrap(),
        endpoint: &EndpointKey::from_stored(&format!("{organization}/{id}")),
    };
    let tls = endpoint.get_document_mut("tls").unwrap();
    let plain = tls.get_str("clientKey").unwrap();
    let encrypted = envelopes.encrypt("tls.clientKey", &plain.into()).unwrap();
    tls.insert("clientKey", encrypted);
    endpoint
}

#[tokio::test]
async fn a_receiver_in_node_that_demands_a_certificate_gets_one() {
    check(libraries::node(), "receiver.mjs", "HTTP/2.0").await;
}

#[tokio::test]
async fn a_receiver_in_python_that_demands_a_certificate_gets_one() {
    check(Command::new("python3"), "receiver.py", "HTTP/1.1").await;
}

/// A certificate that ends that many days from now, and its key.
pub fn ending_in(days: i64) -> (String, String) {
    use chrono::Datelike;
    let now = certhookd::model::Clock::local().timestamp_millis();
    let at = chrono::DateTime::from_timestamp_millis(now + days * 86_400_000).unwrap();
    let mut params = CertificateParams::new(["certhookd.test".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "certhookd.test");
    params.not_after = date_time_ymd(
        at.year(),
        u8::try_from(at.month()).unwrap(),
        u8::try_from(at.day()).unwrap(),
    );
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_one_warning_and_a_mark() {
    let fixture = Fixture::new().await.with(LISTEN);
    let organization = ObjectId::new();
    let table = [
        ("far", doc! { "ca": ending_in(30).0 }, false),
        (
            "soon",
            doc! { "ca": ending_in(30).0, "clientCert": ending_in(10).0 },
            true,
        ),
        ("over", doc! { "ca": ending_in(-3).0 }, true),
        ("off", doc! { "ca": ending_in(3).0 }, false),
    ];
    let endpoints = table.clone().map(|(name, mut tls, _)| {
        let (certificate, key) = ending_in(10);
        if tls.contains_key("clientCert") {
            tls.extend(doc! { "clientCert": certificate, "clientKey": key });
        }
        let mut endpoint = fixture.endpoint(&format!("/{name}"));
        endpoint.extend(doc! { "tls": tls, "enabled": name != "off" });
        endpoint
    });
    put(&fixture, organization, endpoints.to_vec()).await;
    let daemon = fixture.daemon().await;
    let id = |index: usize| endpoints[index].get_object_id("_id").unwrap().to_hex();
    let told = |line: &Value| line["level"] == "WARN" && line["reason"].as_str().is_some_and(|r| r.contains("`tls`"));
    for (index, said) in [
        (1, "a certificate of `clientCert` ends: "),
        (2, "a certificate of `ca` has ended: "),
    ] {
        let line = daemon
            .wait_for(|line| told(line) && line["endpoint"] == id(index))
            .await;
        assert_eq!(line["organization"], organization.to_hex());
        assert!(line["reason"].as_str().unwrap().contains(said), "{line}");
    }
    // Read once more, and another one that comes with it: what was told is not told again.
    let newcomer = {
        let mut endpoint = fixture.endpoint("/new");
        endpoint.insert("tls", doc! { "ca": ending_in(1).0 });
        endpoint
    };
    let push = doc! { "$push": { "webHookConfig.endpoints": &newcomer } };
    let all = doc! { "_ownerId": organization };
    fixture.member_configs().update_one(all, push).await.unwrap();
    let new = newcomer.get_object_id("_id").unwrap().to_hex();
    daemon.wait_for(|line| told(line) && line["endpoint"] == new).await;
    assert_eq!(daemon.count(told), 3);

    let status = fixture.outcome(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    for (index, (name, _, marked)) in table.iter().enumerate() {
        let endpoints = status["endpoints"].as_array().unwrap();
        let endpoint = endpoints.iter().find(|one| one["endpoint"] == id(index)).unwrap();
        assert_eq!(
            endpoint["warnings"].as_array().unwrap().len(),
            usize::from(*marked),
            "{name} {endpoint}"
        );
    }
    let page = get(address(&daemon).await, "/").await;
    assert_eq!(page.body.matches("a certificate of `").count(), 3, "{page:?}");
}
