//! Addresses that are odd and right, and mail servers that are old.

use bson::doc;
use serde_json::json;

use super::{MailServer, expire, reminders, through, user};
use crate::fixture::Fixture;

#[tokio::test]
async fn addresses_that_are_odd_and_right_get_their_e_mail() {
    let server = MailServer::start(&json!({})).await;
    let from = "email.from = \"Académie <no-reply@académie.test>\"";
    let uri = through(server.port);
    let (_, url) = uri.split_once('\n').unwrap();
    let fixture = Fixture::new().await.with(&format!("{from}\n{url}"));
    let table = [
        ("ann@bücher.test", "ann@xn--bcher-kva.test"),
        ("ann@BÜCHER.test", "ann@xn--bcher-kva.test"),
        ("ann@почта.пример", "ann@xn--80a1acny.xn--e1afmkfd"),
        ("ann@例え。テスト", "ann@xn--r8jz45g.xn--zckzah"),
        ("ann@xn--bcher-kva.test", "ann@xn--bcher-kva.test"),
        ("\"ann smith\"@users.test", "\"ann smith\"@users.test"),
        ("\"ann@home\"@users.test", "\"ann@home\"@users.test"),
        ("\"ann smith\"@bücher.test", "\"ann smith\"@xn--bcher-kva.test"),
        ("o'ann+tag/7=x@users.test", "o'ann+tag/7=x@users.test"),
        (" ann@users.test\n", "ann@users.test"),
    ];
    for (address, _) in table {
        let user = user(&fixture, address).await;
        expire(&fixture, user).await;
    }
    let _daemon = fixture.daemon().await;
    fixture
        .wait_for_deliveries(reminders("delivered"), table.len() as u64)
        .await;
    let mails = server.mails();
    let mut taken: Vec<_> = mails
        .iter()
        .flat_map(|mail| mail.to.iter().map(String::as_str))
        .collect();
    let mut expected = table.map(|(_, taken)| taken);
    taken.sort_unstable();
    expected.sort_unstable();
    assert_eq!(taken, expected);
    for mail in mails {
        assert_eq!(mail.from, "no-reply@xn--acadmie-eya.test");
        assert!(mail.headers()["Message-ID"].ends_with("@xn--acadmie-eya.test>"));
        assert_eq!(mail.headers()["To"], mail.to[0]);
    }
}

#[tokio::test]
async fn addresses_that_only_look_odd_and_right_get_none() {
    let server = MailServer::start(&json!({})).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    let table = [
        "\"ann\r\nRCPT TO:<victim@evil.test>\"@users.test",
        "\"ann\"smith\"@users.test",
        "\"\"@users.test",
        "ann@bü cher.test",
        "ann@bücher.test>\r\nRCPT TO:<victim@evil.test",
        "ann@\u{ff0f}bücher.test",
    ];
    for address in table {
        let user = user(&fixture, address).await;
        expire(&fixture, user).await;
    }
    let _daemon = fixture.daemon().await;
    let dead =
        doc! { "endpoint": "all/email", "state": "dead", "lastError": "the user's `email` is no e-mail address" };
    fixture.wait_for_deliveries(dead, table.len() as u64).await;
    assert!(server.mails().is_empty());
}

#[tokio::test]
async fn a_server_that_does_not_know_ehlo_is_greeted_with_helo() {
    let replies = [
        "500 Command unrecognized",
        "502 5.5.1 Not implemented",
        "504 5.5.4 Not here",
    ];
    for (reply, tls) in replies.into_iter().zip(["none", "opportunistic", "none"]) {
        let server = MailServer::start(&json!({ "ehlo": reply })).await;
        let config = through(server.port).replace("tls=none", &format!("tls={tls}"));
        let fixture = Fixture::new().await.with(&config);
        let ann = user(&fixture, "ann@users.test").await;
        expire(&fixture, ann).await;
        let _daemon = fixture.daemon().await;
        fixture.wait_for_deliveries(reminders("delivered"), 1).await;
        assert_eq!(server.mails().len(), 1, "{reply}");
    }
}

/// HELO offers no TLS.
#[tokio::test]
async fn where_tls_is_required_a_server_without_ehlo_gets_nothing() {
    let server = MailServer::start(&json!({ "ehlo": "502 5.5.1 Not implemented" })).await;
    let config = through(server.port).replace("tls=none", "tls=required");
    let fixture = Fixture::new().await.with(&config);
    let ann = user(&fixture, "ann@users.test").await;
    expire(&fixture, ann).await;
    let daemon = fixture.daemon().await;
    daemon.wait_for(|line| line["reason"] == "status 502 5.5.1").await;
    assert!(server.mails().is_empty());
}
