//! Mail servers that ask for TLS and a login, and what an operator may get wrong about them.

use bson::oid::ObjectId;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::queue::{addresses, closes_with_one_line, expire_in_turn};
use super::{MailServer, ON, expire, is_of_reminder, user};
use crate::fixture::{Daemon, Fixture};
use crate::sender::tls::Authority;

/// An authority, and the files of a certificate by it.
struct Identity {
    folder: TempDir,
}

impl Identity {
    fn new(authority: &str, name: &str) -> Self {
        let (authority, folder) = (Authority::new(authority), TempDir::new().unwrap());
        let (certificate, key) = authority.identity(name, 2999);
        let write = |file, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("ca.pem", authority.pem());
        write("certificate.pem", &certificate.pem());
        write("key.pem", &key.serialize_pem());
        Self { folder }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    async fn server(&self, implicit: bool) -> MailServer {
        self.refusing(implicit, 0).await
    }

    /// A server that refuses that many logins first.
    async fn refusing(&self, implicit: bool, logins: u32) -> MailServer {
        MailServer::start(&json!({
            "identity": [self.file("certificate.pem"), self.file("key.pem")],
            "implicit": implicit, "login": ["robot@academy.test", "hunter:2"], "refused_logins": logins,
        }))
        .await
    }

    /// The daemon, one certificate expired; it trusts this authority.
    async fn daemon(&self, url: &str) -> (Fixture, Daemon) {
        let fixture = Fixture::new().await.with(&format!("{ON}\nemail.smtp_url = \"{url}\""));
        let ann = user(&fixture, "ann@users.test").await;
        expire(&fixture, ann).await;
        let mut command = fixture.command(&["run"]);
        command.env("SSL_CERT_FILE", self.file("ca.pem"));
        let daemon = Daemon::spawn(command);
        (fixture, daemon)
    }

    /// What the first attempt fails with.
    async fn failure(&self, url: &str) -> String {
        let (_bed, daemon) = self.daemon(url).await;
        let failed = daemon
            .wait_for(|line| is_of_reminder(line) && line["level"] == "WARN")
            .await;
        assert_no_secret(&daemon.lines());
        failed["reason"].as_str().unwrap().to_owned()
    }
}

fn assert_no_secret(log: &[Value]) {
    for line in log.iter().map(Value::to_string) {
        for secret in ["hunter", "ann@users.test", "Safety"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[tokio::test]
async fn the_login_goes_over_tls_and_shows_nowhere() {
    let identity = Identity::new("trusted", "127.0.0.1");
    for (scheme, implicit) in [("smtps", true), ("smtp", false)] {
        let server = identity.server(implicit).await;
        let url = format!("{scheme}://robot%40academy.test:hunter%3A2@127.0.0.1:{}", server.port);
        let (_bed, daemon) = identity.daemon(&url).await;
        server.wait_for(1).await;
        daemon
            .wait_for(|line| is_of_reminder(line) && line["message"] == "delivered")
            .await;
        assert_no_secret(&daemon.lines());
    }
}

#[tokio::test]
async fn a_login_or_a_server_that_is_wrong_costs_no_reminder() {
    let identity = Identity::new("trusted", "127.0.0.1");
    let server = identity.server(true).await;
    let port = server.port;
    let wrong = identity
        .failure(&format!("smtps://robot:hunter3@127.0.0.1:{port}"))
        .await;
    assert_eq!(wrong, "login: status 535 5.7.8");
    let unknown = Identity::new("other", "127.0.0.1");
    let failure = unknown.failure(&format!("smtps://127.0.0.1:{port}")).await;
    assert_eq!(failure, "tls: certificate's issuer is not trusted");
    let other = Identity::new("trusted", "mail.test");
    let server = other.server(true).await;
    let failure = other.failure(&format!("smtps://127.0.0.1:{}", server.port)).await;
    assert_eq!(failure, "tls: certificate is for another name");
    let plain = MailServer::start(&json!({})).await;
    let failure = identity
        .failure(&format!("smtp://robot:hunter2@127.0.0.1:{}", plain.port))
        .await;
    assert_eq!(failure, "STARTTLS is not supported on this server");
    assert_eq!(plain.mails().len(), 0);
}

#[tokio::test]
async fn a_login_that_is_refused_for_a_while_closes_the_queue_with_one_line() {
    let identity = Identity::new("Academy", "localhost");
    let server = identity.refusing(true, 3).await;
    let url = format!("smtps://robot%40academy.test:hunter%3A2@localhost:{}", server.port);
    let fixture = Fixture::new().await.with(&format!("{ON}\nemail.smtp_url = \"{url}\""));
    expire_in_turn(&fixture, ObjectId::new(), addresses("ann", 30)).await;
    let mut command = fixture.command(&["run"]);
    command.env("SSL_CERT_FILE", identity.file("ca.pem"));
    let daemon = Daemon::spawn(command);
    closes_with_one_line(&fixture, &daemon, "login: status 535 5.7.8").await;
    assert_eq!(server.mails().len(), 30);
}
