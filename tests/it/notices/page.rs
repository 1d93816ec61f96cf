//! docs/notices.md says what is so.

use bson::doc;
use serde_json::{Value, json};

use super::{SECRET, always, daemon, expire, fixture, has, id, notices};
use crate::email::server::MailServer;
use crate::fixture::{Daemon, Fixture};
use crate::mtls::ending_in;
use crate::receivers::Running;
use crate::receivers::page::block_of;
use crate::standard_webhooks::libraries;

const PAGE: &str = include_str!("../../../docs/notices.md");

#[tokio::test]
async fn the_receiver_of_the_page_writes_to_the_customer() {
    let mails = MailServer::start(&json!({})).await;
    let mut node = libraries::node();
    let folder = tempfile::tempdir_in(node.get_current_dir().unwrap()).unwrap();
    let script = folder.path().join("notices.mjs");
    std::fs::write(&script, block_of(PAGE, "run: notices.mjs")).unwrap();
    node.arg(script).env("NOTICES_SECRET", SECRET);
    node.env("SMTP_URL", format!("smtp://127.0.0.1:{}", mails.port));
    node.env("CUSTOMER", "it@customer.test");
    let mut receiver = Running::start(node);
    let listening = receiver.line().await;
    let port = listening.strip_prefix("listening on port ").unwrap();

    let settings = format!(
        "completions.enabled = false\nnotices.url = \"http://127.0.0.1:{port}/\"\nnotices.secret = \"{SECRET}\""
    );
    let fixture = Fixture::new().await.with(&settings);
    let mut endpoint = fixture.endpoint("/gone");
    endpoint.insert("name", "HR system");
    let (certificate, key) = ending_in(3);
    let mut ending = fixture.endpoint("/well");
    ending.insert("tls", doc! { "clientCert": certificate, "clientKey": key });
    let organization = fixture.organization(vec![endpoint, ending]).await;
    always(&fixture, "/gone", 410);
    expire(&fixture, organization, 1).await;
    let _daemon: Daemon = daemon(&fixture).await;
    let delivered = doc! { "endpoint": "all/notices", "state": "delivered" };
    fixture.wait_for_deliveries(delivered, 3).await;
    let mails = mails.mails();
    let suspended = mails
        .iter()
        .find(|mail| mail.headers()["Subject"].contains("endpoint.suspended"));
    let suspended = suspended.unwrap();
    assert_eq!(suspended.to, ["it@customer.test"]);
    assert!(suspended.headers()["Subject"].contains("HR system"), "{suspended:?}");
    assert!(
        suspended.text.contains("The endpoint responded with 410 Gone.") && suspended.text.contains("status 410"),
        "{suspended:?}"
    );
    let ends = mails
        .iter()
        .find(|mail| mail.headers()["Subject"].contains("endpoint.certificate_ends"));
    let text = &ends.unwrap().text;
    assert!(text.contains("clientCert CN=certhookd.test ends 20"), "{text}");
}

#[tokio::test]
async fn the_example_has_the_fields_of_what_is_sent() {
    let fixture = fixture("delivery.suspend_after = \"5d\"").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    always(&fixture, "/a", 503);
    expire(&fixture, organization, 30).await;
    let _daemon = daemon(&fixture).await;
    let key = id(&endpoint);
    let requests = fixture
        .wait_for(|requests| has(requests, &key, "endpoint.failing"))
        .await;
    let sent = notices(&requests)
        .into_values()
        .find(|notice| notice["type"] == "endpoint.failing")
        .unwrap();
    let (_, example) = PAGE.split_once("```json\n").unwrap();
    let example: Value = serde_json::from_str(example.split_once("```").unwrap().0).unwrap();
    for part in ["", "/data", "/data/lastResponse"] {
        let fields = |notice: &Value| {
            let fields = notice.pointer(part).unwrap().as_object().unwrap();
            fields.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(fields(&example), fields(&sent), "{part}");
    }
    let begins = |notice: &Value| notice["data"]["next"].as_str().unwrap()[..100].to_owned();
    assert_eq!(begins(&example), begins(&sent));
}
