//! What a mail server, or a user's own data, can say against a reminder.

use bson::{Bson, doc};
use serde_json::json;

use super::{MailServer, expire, is_of_reminder, reminders, through, user};
use crate::fixture::{Fixture, expired, expired_id};

#[tokio::test]
async fn a_temporary_refusal_is_tried_again_and_each_try_is_the_same_e_mail() {
    let replies = json!({ "replies": { "ann@users.test": ["451 4.7.1 Greylisted", "452 4.2.2 Mailbox full"] } });
    let server = MailServer::start(&replies).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    let ann = user(&fixture, "ann@users.test").await;
    let certificate = expire(&fixture, ann).await;
    let daemon = fixture.daemon().await;

    let mails = server.wait_for(1).await;
    let id = format!("<{}@academy.test>", expired_id(&certificate));
    assert_eq!(mails[0].headers()["Message-ID"], id);
    let mut delivered = reminders("delivered");
    delivered.insert("attempts", 3);
    fixture.wait_for_deliveries(delivered, 1).await;
    let failures: Vec<_> = daemon
        .lines()
        .into_iter()
        .filter(|line| is_of_reminder(line) && line["reason"].is_string())
        .map(|line| line["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(failures, ["status 451 4.7.1", "status 452 4.2.2"]);
}

#[tokio::test]
async fn a_permanent_failure_is_a_dead_letter_at_once_with_its_reason() {
    let replies = json!({ "replies": { "gone@users.test": ["550 5.1.1 <gone@users.test> is unknown"] } });
    let server = MailServer::start(&replies).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    let cases = [
        (Bson::from("gone@users.test"), "status 550 5.1.1"),
        (Bson::Null, "the user has no `email`"),
        (Bson::from("nobody-at-all"), "the user's `email` is no e-mail address"),
        (
            Bson::from("ann@users.test>\r\nRCPT TO:<victim@evil.test"),
            "the user's `email` is no e-mail address",
        ),
        (
            Bson::from("ann@users.test, victim@evil.test"),
            "the user's `email` is no e-mail address",
        ),
    ];
    for (place, (address, _)) in cases.iter().enumerate() {
        let place = i64::try_from(place).unwrap();
        let user = doc! { "_id": place, "email": address };
        fixture.database.collection("users").insert_one(user).await.unwrap();
        let mut certificate = expired(bson::oid::ObjectId::new());
        certificate.insert("_userId", place);
        fixture.badge_users().insert_one(certificate).await.unwrap();
    }
    let mut nobodys = expired(bson::oid::ObjectId::new());
    nobodys.remove("_userId");
    fixture.badge_users().insert_one(nobodys).await.unwrap();
    let deleted = expire(&fixture, bson::oid::ObjectId::new()).await;
    let daemon = fixture.daemon().await;

    fixture.wait_for_deliveries(reminders("dead"), 6).await;
    fixture.wait_for_deliveries(reminders("cancelled"), 1).await;
    let reasons = cases.iter().map(|(_, reason)| *reason);
    for reason in reasons.chain(["the certificate names no user"]) {
        let dead = doc! {
            "state": "dead", "attempts": 1, "redrivable": false,
            "reason": "permanent failure: not retried", "lastError": reason,
        };
        let found = fixture.count_deliveries(dead).await;
        let expected = cases.iter().filter(|(_, other)| *other == reason).count().max(1);
        assert_eq!(found, expected as u64, "{reason}");
    }
    let cancelled = fixture.deliveries(reminders("cancelled")).await.remove(0);
    assert_eq!(
        cancelled.get_str("reason").unwrap(),
        "the certificate's user was deleted"
    );
    assert_eq!(cancelled.get("certificate"), deleted.get("_id"));
    let is_error = |line: &serde_json::Value| is_of_reminder(line) && line["level"] == "ERROR";
    daemon.wait_for_nth(is_error, 6).await;
    let errors = daemon.count(is_error);
    assert_eq!((errors, server.mails().len()), (6, 0));
    for line in daemon.lines() {
        assert!(!line.to_string().contains("users.test"), "{line}");
    }
}
