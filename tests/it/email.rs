//! Reminders by e-mail, from the expired certificate to a real mail server.

mod addresses;
pub mod queue;
mod refusals;
pub mod server;
mod tls;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Proxy;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::fixture::{Daemon, Fixture, certificate, expired, expired_id, is_scan};
use server::{Mail, MailServer};

const ON: &str = "email.from = \"Academy <no-reply@academy.test>\"";

/// E-mails go to that port, in the clear.
pub fn through(port: u16) -> String {
    format!("{ON}\nemail.smtp_url = \"smtp://127.0.0.1:{port}?tls=none\"")
}

/// A user with that address.
async fn user(fixture: &Fixture, address: &str) -> ObjectId {
    let id = ObjectId::new();
    let user = doc! { "_id": id, "email": address, "firstname": "A" };
    fixture.database.collection("users").insert_one(user).await.unwrap();
    id
}

/// An expired certificate of that user.
async fn expire(fixture: &Fixture, user: ObjectId) -> Document {
    let mut document = expired(ObjectId::new());
    document.insert("_userId", user);
    fixture.badge_users().insert_one(&document).await.unwrap();
    document
}

fn reminders(state: &str) -> Document {
    doc! { "endpoint": "all/email", "state": state }
}

fn is_of_reminder(line: &Value) -> bool {
    line["endpoint"] == "email"
}

/// Scans now and waits until the nth scan has ended.
async fn scan(daemon: &Daemon, nth: usize) {
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_nth(is_scan, nth).await;
}

#[tokio::test]
async fn an_expired_certificate_reminds_its_user_once_besides_the_webhooks() {
    let server = MailServer::start(&json!({})).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let (ann, bob) = (
        user(&fixture, "ann@users.test").await,
        user(&fixture, "bob@users.test").await,
    );
    let mut subscribed = expired(organization);
    subscribed.insert("_userId", ann);
    fixture.badge_users().insert_one(&subscribed).await.unwrap();
    expire(&fixture, bob).await;
    let daemon = fixture.daemon().await;

    let mails = server.wait_for(2).await;
    let mail = mails.iter().find(|mail| mail.to == ["ann@users.test"]).unwrap();
    assert_eq!(mail.from, "no-reply@academy.test");
    let headers = mail.headers();
    assert_eq!(headers["From"], "Academy <no-reply@academy.test>");
    assert_eq!(headers["To"], "ann@users.test");
    assert_eq!(headers["Subject"], "Your certificate Safety has expired");
    assert_eq!(
        headers["Message-ID"],
        format!("<{}@academy.test>", expired_id(&subscribed))
    );
    assert_eq!(headers["Auto-Submitted"], "auto-generated");
    let day = &subscribed
        .get_datetime("expires")
        .unwrap()
        .try_to_rfc3339_string()
        .unwrap()[..10];
    assert_eq!(
        mail.text.replace("\r\n", "\n"),
        format!("Hello,\n\nyour certificate Safety expired on {day}.\n")
    );
    assert!(mails.iter().any(|mail| mail.to == ["bob@users.test"]));

    // An award reminds nobody, and a second scan finds nothing more to say.
    let mut awarded = certificate(organization, None);
    awarded.insert("_userId", ann);
    fixture.badge_users().insert_one(&awarded).await.unwrap();
    fixture.wait_for(|requests| requests.len() == 2).await;
    scan(&daemon, 2).await;
    fixture.wait_for_deliveries(reminders("delivered"), 2).await;
    assert_eq!(fixture.count_deliveries(doc! {}).await, 4);
    assert_eq!(server.mails().len(), 2);
}

#[tokio::test]
async fn reminders_are_off_until_a_reload_turns_them_on() {
    let server = MailServer::start(&json!({})).await;
    let fixture = Fixture::new().await;
    let ann = user(&fixture, "ann@users.test").await;
    expire(&fixture, ann).await;
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    assert_eq!(fixture.count_deliveries(doc! {}).await, 0);

    let custom = "email.subject = \"Fini : {{ certificate.ruleData.name | upper }}\"\nemail.users = \"people\"\n\
                  email.address_field = \"profile.mail\"";
    fixture.configure(&format!("{}\n{custom}", through(server.port)));
    let person = doc! { "_id": ann.to_hex(), "profile": { "mail": "ann@work.test" } };
    fixture.database.collection("people").insert_one(person).await.unwrap();
    let reloaded = |line: &Value| line["message"] == "configuration reloaded";
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(reloaded).await;
    expire(&fixture, ann).await;
    scan(&daemon, 2).await;
    let mails = server.wait_for(1).await;
    assert_eq!(mails[0].headers()["Subject"], "Fini : SAFETY");
    assert_eq!(mails[0].headers()["To"], "ann@work.test");

    fixture.configure("");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_nth(reloaded, 2).await;
    expire(&fixture, ann).await;
    scan(&daemon, 3).await;
    assert_eq!(fixture.count_deliveries(doc! {}).await, 1);
}

/// What an organization or a user may have written anywhere.
fn hostile() -> Document {
    let name =
        "Fire\r\nBcc: victim@evil.test\r\n\r\n.\r\nQUIT\r\n\u{0}<b>{{ certificate.secret }}</b>\u{2028}é🔥\u{202e}";
    doc! { "type": "track", "name": format!("{name}{}", "x".repeat(2000)) }
}

#[tokio::test]
async fn a_hostile_name_makes_no_header_no_recipient_and_no_line() {
    let server = MailServer::start(&json!({})).await;
    let text = "email.text = \"\"\"\nName: {{ certificate.ruleData.name }}\n.\nEnd\n\"\"\"";
    let subject = "email.subject = \"[{{ certificate.ruleData.name }}]\\r\\nX-Own: {{ certificate.nothing.at.all }}\"";
    let fixture = Fixture::new()
        .await
        .with(&format!("{}\n{subject}\n{text}", through(server.port)));
    let mut document = expired(ObjectId::new());
    document.insert("_userId", user(&fixture, "ann@users.test").await);
    document.insert("ruleData", hostile());
    fixture.badge_users().insert_one(&document).await.unwrap();
    let _daemon = fixture.daemon().await;

    let mail: Mail = server.wait_for(1).await.remove(0);
    assert_eq!(mail.to, ["ann@users.test"]);
    let headers = mail.headers();
    let mut names: Vec<_> = headers.keys().copied().collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "Auto-Submitted",
            "Content-Transfer-Encoding",
            "Content-Type",
            "Date",
            "From",
            "Message-ID",
            "Subject",
            "To"
        ]
    );
    let subject = headers["Subject"];
    assert!(
        subject.starts_with("[Fire Bcc: victim@evil.test . QUIT <b>{{ certificate.secret }}</b> é🔥 x"),
        "{subject}"
    );
    assert_eq!(subject.chars().count(), 200);
    let text = mail.text.replace("\r\n", "\n");
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("Name: Fire  Bcc: victim@evil.test    .  QUIT   <b>"),
        "{text}"
    );
    assert_eq!(lines[1..], [".", "End"]);
}

#[tokio::test]
async fn a_mail_server_that_is_away_is_waited_for_and_holds_up_no_webhook() {
    let server = MailServer::start(&json!({})).await;
    let proxy = Proxy::start(server.port).await.unwrap();
    let fixture = Fixture::new().await.with(&through(proxy.address().port()));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    proxy.cut();
    let mut document = expired(organization);
    document.insert("_userId", user(&fixture, "ann@users.test").await);
    fixture.badge_users().insert_one(&document).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture.wait_for(|requests| requests.len() == 1).await;
    let failed = daemon
        .wait_for(|line| is_of_reminder(line) && line["level"] == "WARN")
        .await;
    assert!(
        ["connection reset", "connection closed, or the response is not SMTP"]
            .contains(&failed["reason"].as_str().unwrap()),
        "{failed}"
    );
    assert_eq!(server.mails().len(), 0);

    proxy.pass();
    server.wait_for(1).await;
    daemon
        .wait_for(|line| is_of_reminder(line) && line["level"] == "INFO" && line["status"] == 250)
        .await;
}

#[tokio::test]
async fn reminders_that_outlived_their_attempts_go_out_when_the_server_is_back() {
    let server = MailServer::start(&json!({})).await;
    let proxy = Proxy::start(server.port).await.unwrap();
    proxy.cut();
    let settings = "delivery.max_attempts = 2\ndelivery.retry_window = \"1s\"";
    let fixture = Fixture::new()
        .await
        .with(&format!("{}\n{settings}", through(proxy.address().port())));
    let ann = user(&fixture, "ann@users.test").await;
    expire(&fixture, ann).await;
    expire(&fixture, ann).await;
    let daemon = fixture.daemon().await;
    daemon
        .wait_for_nth(|line| is_of_reminder(line) && line["level"] == "ERROR", 2)
        .await;
    proxy.pass();
    server.wait_for(2).await;
    fixture.wait_for_deliveries(reminders("delivered"), 2).await;
}

#[tokio::test]
async fn check_and_status_tell_of_them() {
    let server = MailServer::start(&json!({})).await;
    let fixture = Fixture::new().await.with(&through(server.port));
    let good = fixture.outcome(&["check"]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stdout.contains(".users\n"), "{good:?}");
    assert!(good.stdout.contains("ok    mail server: "), "{good:?}");

    let ann = user(&fixture, "ann@users.test").await;
    expire(&fixture, ann).await;
    let _daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(reminders("delivered"), 1).await;
    let status = fixture.outcome(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let row = &status["endpoints"][0];
    assert_eq!(
        [&row["endpoint"], &row["state"], &row["delivered"]],
        [&json!("email"), &json!("served"), &json!(1)]
    );

    drop(server);
    let unreachable = fixture.outcome(&["check"]).await;
    assert_eq!(unreachable.code, Some(1), "{unreachable:?}");
    assert!(
        unreachable.stdout.contains("FAIL  mail server: connection refused"),
        "{unreachable:?}"
    );
}
