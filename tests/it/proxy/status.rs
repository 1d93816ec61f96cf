//! What the commands by hand say of the proxy, and what they send through it.

use bson::{Document, doc};
use serde_json::Value;

use super::support::{Script, Scripted};
use crate::fixture::{Fixture, certificate, completed_id, endpoint_key};
use crate::web::{LISTEN, address, get};

const GOOD: &str = "HTTP/1.1 200 OK\r\n\r\n";
const BAD: &str = "HTTP/1.1 502 Bad Gateway\r\n\r\n";
const LOGIN: &str = "HTTP/1.1 407 Login\r\n\r\n";

#[tokio::test]
async fn check_tries_the_proxy() {
    let scripted = Scripted::start().await;
    let name = scripted.address.to_string();
    let (url, login) = (scripted.url(), format!("http://bob:s3cret@{name}"));
    let table = [
        (&url, Script::Says(GOOD), 0, "ok    proxy: ", " leads to "),
        (&url, Script::Says(BAD), 0, "WARN  proxy: ", " answers 502 to CONNECT "),
        (
            &url,
            Script::Hangs,
            0,
            "WARN  proxy: ",
            " responds, but not within 2 s to CONNECT ",
        ),
        (&url, Script::Says(LOGIN), 78, "FAIL  proxy: ", " wants a login (407)"),
        (
            &login,
            Script::Says(LOGIN),
            78,
            "FAIL  proxy: ",
            " refuses the login (407)",
        ),
        (
            &url,
            Script::Closes,
            1,
            "FAIL  proxy: ",
            " breaks off before it answers: ",
        ),
        (
            &"http://127.0.0.1:1".to_owned(),
            Script::Closes,
            1,
            "FAIL  proxy: ",
            " can't be reached: connection refused",
        ),
    ];
    for (url, script, code, mark, says) in table {
        let fixture = Fixture::new().await.with(&format!("delivery.proxy = \"{url}\""));
        fixture.organization(vec![fixture.endpoint("/a")]).await;
        let what = format!("{script:?}");
        scripted.does(script);
        let check = fixture.outcome(&["check"]).await;
        assert_eq!(check.code, Some(code), "{what}: {check:?}");
        let line = check.stdout.lines().find(|line| line.starts_with(mark));
        assert!(line.is_some_and(|line| line.contains(says)), "{what}: {}", check.stdout);
        assert!(!format!("{check:?}").contains("s3cret"), "{check:?}");
    }
    // Without an endpoint there is nothing to ask for.
    let fixture = Fixture::new().await.with(&format!("delivery.proxy = \"{url}\""));
    let check = fixture.outcome(&["check"]).await;
    assert!(
        check
            .stdout
            .contains(&format!("ok    proxy: {name} responds; there is no endpoint")),
        "{check:?}"
    );
    let none = Fixture::new().await.outcome(&["check"]).await;
    assert!(!none.stdout.contains("proxy"), "{none:?}");
}

#[tokio::test]
async fn samples_go_through_the_proxy() {
    let mut scripted = Scripted::start().await;
    let fixture = Fixture::new()
        .await
        .with(&format!("delivery.proxy = \"{}\"", scripted.url()));
    let endpoint = fixture.endpoint("/a");
    let id = endpoint.get_object_id("_id").unwrap().to_hex();
    let organization = fixture.organization(vec![endpoint]).await;
    let sent = fixture.outcome(&["send-test", "--endpoint", &id]).await;
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert_eq!(scripted.targets(), [fixture.receiver.address().to_string()]);

    let daemon = fixture.daemon().await;
    let test = || doc! { "kind": "test", "selection": { "endpoint": format!("{organization}/{id}") } };
    let ended = fixture.operate(test()).await;
    assert!(
        ended.get_document("result").unwrap().get_bool("delivered").unwrap(),
        "{ended}"
    );
    assert_eq!(scripted.targets().len(), 2);

    scripted.kill().await;
    let unavailable = format!("the proxy {} can't be reached: connection refused", scripted.address);
    let failed = fixture.outcome(&["send-test", "--endpoint", &id]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.stdout.contains(&format!("result    {unavailable}\n")),
        "{failed:?}"
    );
    drop(daemon);
    let daemon = fixture.daemon().await;
    let ended = fixture.operate(test()).await;
    assert!(ended.get_str("error").unwrap().contains(&unavailable), "{ended}");
    drop(daemon);
}

/// The process that shows it is another than the one that waits.
#[tokio::test]
async fn show_and_the_page_say_that_a_delivery_waits_for_the_proxy() {
    let mut scripted = Scripted::start().await;
    let settings = format!(
        "delivery.proxy = \"{}\"\ndelivery.no_proxy = [\"127.0.0.9\"]\n{LISTEN}",
        scripted.url()
    );
    let fixture = Fixture::new().await.with(&settings);
    let (proxied, mut listed) = (fixture.endpoint("/a"), fixture.endpoint("/b"));
    listed.insert("url", "http://127.0.0.9:9/");
    let endpoints = [&proxied, &listed];
    let organization = fixture.organization(endpoints.map(Document::clone).to_vec()).await;
    let keys = endpoints.map(|endpoint| endpoint_key(organization, endpoint));
    let daemon = fixture.daemon().await;
    let page = address(&daemon).await;
    scripted.kill().await;
    let document = certificate(organization, None);
    fixture.badge_users().insert_one(&document).await.unwrap();
    let noted = |all: bool| doc! { "_id": { "$regex": "^instance/" }, "proxy.all": all };
    fixture.wait_for_count(&fixture.state(), noted(true), 1).await;
    let event = completed_id(&document);
    let next = async |key: &str| {
        let shown = fixture.outcome(&["show", "--json", &format!("{event}/{key}")]).await;
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        shown["events"][0]["deliveries"][0]["next"].clone()
    };
    let says = format!("the proxy {} can't be reached: connection refused", scripted.address);
    let waits = next(&keys[0]).await;
    assert_eq!(waits["code"], "wait", "{waits}");
    let text = waits["text"].as_str().unwrap();
    assert!(
        text.starts_with("waits for the proxy since 20") && text.contains(&says),
        "{text}"
    );
    assert_eq!(next(&keys[1]).await["code"], "attempt", "it is reached directly");
    for path in [format!("/endpoint/{}", keys[0]), format!("/show?id={event}")] {
        let body = get(page, &path).await.body.replace("&#x27;", "'");
        assert!(
            body.contains("waits for the proxy since 20") && body.contains(&says),
            "{body}"
        );
    }
    let body = get(page, &format!("/endpoint/{}", keys[1])).await.body;
    assert!(!body.contains("waits for the proxy"), "{body}");

    // Where it only breaks off, one who has not met that may try.
    scripted.does(Script::Closes);
    scripted.restart().await;
    fixture.wait_for_count(&fixture.state(), noted(false), 1).await;
    let may = next(&keys[0]).await;
    assert_eq!(may["code"], "attempt", "{may}");
    assert!(
        may["text"]
            .as_str()
            .unwrap()
            .ends_with("what meets that waits until the proxy works"),
        "{may}"
    );

    scripted.does(Script::Tunnel);
    let delivered = doc! { "state": "delivered", "endpoint": &keys[0] };
    fixture.wait_for_deliveries(delivered, 1).await;
    let none = doc! { "_id": { "$regex": "^instance/" }, "proxy": null };
    fixture.wait_for_count(&fixture.state(), none, 1).await;
    let second = certificate(organization, None);
    fixture.badge_users().insert_one(&second).await.unwrap();
    let body = get(page, &format!("/endpoint/{}", keys[0])).await.body;
    assert!(!body.contains("the proxy"), "{body}");
    drop(daemon);
}
