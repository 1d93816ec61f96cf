//! The one queue of all reminders: what closes it, what doesn't, and how many connections it takes.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::{MailServer, is_of_reminder, reminders, through};
use crate::fixture::{Daemon, Fixture, expired};

/// Users with these addresses, each with a certificate that expired; the first did first.
pub async fn expire_in_turn(fixture: &Fixture, organization: ObjectId, addresses: impl Iterator<Item = String>) {
    let (mut users, mut certificates): (Vec<Document>, Vec<Document>) = (Vec::new(), Vec::new());
    let place = fixture.badge_users().count_documents(doc! {}).await.unwrap();
    for (place, address) in (place..).zip(addresses) {
        let id = ObjectId::new();
        users.push(doc! { "_id": id, "email": address });
        let mut certificate = expired(organization);
        let at = certificate.get_datetime("expires").unwrap().timestamp_millis();
        let after = i64::try_from(place).unwrap() * 1000;
        certificate.extend(doc! { "_userId": id, "expires": DateTime::from_millis(at + after) });
        certificates.push(certificate);
    }
    fixture.database.collection("users").insert_many(users).await.unwrap();
    fixture.badge_users().insert_many(certificates).await.unwrap();
}

pub(super) fn addresses(name: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |place| format!("{name}-{place}@users.test"))
}

/// Of the one queue, not of one e-mail.
fn is_of_queue(line: &Value, level: &str) -> bool {
    is_of_reminder(line) && line["level"] == level && line["event_id"].is_null()
}

/// How many attempts have failed, of all e-mails.
async fn failed_attempts(fixture: &Fixture) -> i32 {
    let deliveries = fixture.deliveries(reminders("delivered")).await;
    deliveries.iter().map(|one| one.get_i32("attempts").unwrap() - 1).sum()
}

#[tokio::test]
async fn a_greylisted_recipient_waits_while_a_hundred_others_get_theirs_at_once() {
    let replies = json!({ "replies": { "grey-0@users.test": ["450 4.2.0 Greylisted", "450 4.2.0 Greylisted"] } });
    let server = MailServer::start(&replies).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    let organization = ObjectId::new();
    expire_in_turn(&fixture, organization, addresses("grey", 1)).await;
    expire_in_turn(&fixture, organization, addresses("ann", 100)).await;
    let daemon = fixture.daemon().await;

    fixture.wait_for_deliveries(reminders("delivered"), 101).await;
    let (mut at_once, mut later) = (reminders("delivered"), reminders("delivered"));
    at_once.insert("attempts", 1);
    later.insert("attempts", 3);
    assert_eq!(fixture.count_deliveries(at_once).await, 100);
    assert_eq!(fixture.count_deliveries(later).await, 1);
    assert_eq!(server.mails().len(), 101);
    assert_eq!(daemon.count(|line| is_of_queue(line, "WARN")), 0);
}

#[tokio::test]
async fn whatever_a_server_says_to_recipients_of_one_organization_delays_those_of_no_other() {
    let refused = json!({
        "grey": "450 4.2.0 Greylisted", "local": "451 4.3.0 Local error", "full": "452 4.2.2 Mailbox full",
        "busy": "421 4.7.0 Too many to this domain", "unknown": "550 5.1.1 No such user", "odd": "503 5.5.1 Bad sequence",
    });
    let server = MailServer::start(&json!({ "refused": refused })).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    let refusing = ObjectId::new();
    for name in refused.as_object().unwrap().keys() {
        expire_in_turn(&fixture, refusing, addresses(name, 20)).await;
    }
    expire_in_turn(&fixture, ObjectId::new(), addresses("ann", 50)).await;
    let daemon = fixture.daemon().await;

    server.wait_for(50).await;
    let mut at_once = reminders("delivered");
    at_once.insert("attempts", 1);
    fixture.wait_for_deliveries(at_once, 50).await;
    fixture.wait_for_deliveries(reminders("dead"), 40).await;
    assert_eq!(daemon.count(|line| is_of_queue(line, "WARN")), 0);
}

/// Three connections fail, so three attempts do: the first, and two probes.
pub(super) async fn closes_with_one_line(fixture: &Fixture, daemon: &Daemon, reason: &str) {
    fixture.wait_for_deliveries(reminders("delivered"), 30).await;
    daemon.wait_for(|line| is_of_queue(line, "INFO")).await;
    let is_warning = |line: &Value| is_of_reminder(line) && line["level"] == "WARN";
    assert_eq!(daemon.count(is_warning), 1, "{reason}");
    assert_eq!(daemon.wait_for(is_warning).await["reason"], reason);
    assert_eq!(failed_attempts(fixture).await, 3, "{reason}");
}

#[tokio::test]
async fn a_server_that_takes_nobody_closes_the_queue_with_one_line_and_costs_one_attempt_a_second() {
    let busy = "421 4.3.2 Try again later";
    let table = [
        ([busy, busy, busy], "status 421 4.3.2"),
        (["554 No", "554 No", "554 No"], "status 554"),
        (["hello"; 3], "connection closed, or the response is not SMTP"),
    ];
    let cases = table.iter().map(async |(greetings, reason)| {
        let server = MailServer::start(&json!({ "greetings": greetings })).await;
        let fixture = Fixture::new().await.with(&through(server.port));
        expire_in_turn(&fixture, ObjectId::new(), addresses("ann", 30)).await;
        let daemon = fixture.daemon().await;
        closes_with_one_line(&fixture, &daemon, reason).await;
        assert_eq!(server.mails().len(), 30);
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn a_server_that_is_back_is_known_by_its_refusal_of_one_recipient() {
    let busy = "421 4.3.2 Try again later";
    let options =
        json!({ "greetings": [busy, busy], "refused": { "grey": "450 4.2.0 Greylisted", "unknown": "550 5.1.1 No" } });
    let server = MailServer::start(&options).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    for name in ["grey", "unknown", "ann"] {
        expire_in_turn(&fixture, ObjectId::new(), addresses(name, 20)).await;
    }
    let daemon = fixture.daemon().await;
    server.wait_for(20).await;
    assert_eq!(daemon.count(|line| is_of_queue(line, "WARN")), 1);
    assert_eq!(daemon.count(|line| is_of_queue(line, "INFO")), 1);
}

#[tokio::test]
async fn connections_to_the_mail_server_are_bounded_in_all() {
    for (concurrency, expected) in [(20, 5), (5, 5), (2, 2)] {
        let server = MailServer::start(&json!({ "takes": 0.03 })).await;
        let settings = format!("{}\ndelivery.concurrency = {concurrency}", through(server.port));
        let fixture = Fixture::new().await.with(&settings);
        for _ in 0..4 {
            expire_in_turn(&fixture, ObjectId::new(), addresses("ann", 10)).await;
        }
        let _daemon = fixture.daemon().await;
        let mails = server.wait_for(40).await;
        let most = mails.iter().map(|mail| mail.connections).max();
        assert_eq!(most, Some(expected), "concurrency {concurrency}");
    }
}
