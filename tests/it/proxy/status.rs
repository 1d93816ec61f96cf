//! What the commands by hand say of the proxy, and what they send through it.

use bson::doc;

use super::support::{Script, Scripted};
use crate::fixture::Fixture;

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
