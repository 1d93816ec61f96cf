//! Squid, as firms run it (`apt-get install squid`).

use std::collections::HashSet;
use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::process::Stdio;

use bson::{Document, doc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::outage::{assert_first_attempts, award, begins, ends, is_failure};
use crate::fixture::{Fixture, LIMIT, endpoint_key};
use crate::sender::own_certificates::{asking, receiver, shown, token_server, with_ca};
use crate::sender::tls::Authority;
use crate::web::{LISTEN, address, get};

/// Takes the login `bob:s3cret`.
const HELPER: &str =
    "while read -r user password; do [ \"$user $password\" = 'bob s3cret' ] && echo OK || echo ERR; done\n";

struct Squid {
    child: Child,
    directory: TempDir,
    port: u16,
}

impl Squid {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let port = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = directory.path().display();
        std::fs::write(directory.path().join("login.sh"), HELPER).unwrap();
        let config = format!(
            "http_port 127.0.0.1:{port}\npid_filename none\ncache_log {path}/cache.log\naccess_log stdio:{path}/access.log\n\
             cache deny all\nshutdown_lifetime 0 seconds\nnetdb_filename none\npinger_enable off\nvisible_hostname test\n\
             auth_param basic program /bin/sh {path}/login.sh\nauth_param basic children 1 startup=1\n\
             acl login proxy_auth REQUIRED\nacl forbidden dst 127.0.0.3\n\
             http_access deny forbidden\nhttp_access allow CONNECT login\nhttp_access deny all\n"
        );
        std::fs::write(directory.path().join("squid.conf"), config).unwrap();
        // Run by root it becomes another user, who writes there.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), everybody).unwrap();
        let mut squid = Self {
            child: Self::spawn(&directory, port),
            directory,
            port,
        };
        squid.listens().await;
        squid
    }

    fn spawn(directory: &TempDir, port: u16) -> Child {
        let installed = ["/usr/sbin/squid", "/usr/local/sbin/squid"].map(PathBuf::from);
        let squid = installed.into_iter().find(|path| path.exists());
        let mut command = Command::new(squid.expect("Squid is not installed: apt-get install squid"));
        // Its shared memory has the name of the service: those that run at the same time need names of their own.
        command.arg("-N").arg("-n").arg(format!("squid{port}"));
        // It tells of its start on stderr.
        command
            .arg("-d")
            .arg("1")
            .arg("-f")
            .arg(directory.path().join("squid.conf"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().unwrap()
    }

    async fn listens(&mut self) {
        let mut lines = BufReader::new(self.child.stderr.take().unwrap()).lines();
        let listens = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("Accepting HTTP Socket connections") {
                    return true;
                }
            }
            false
        };
        let listens = tokio::time::timeout(LIMIT, listens).await.unwrap();
        assert!(listens, "{}", self.log());
        // Read on: it would wait for somebody who does.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    async fn restart(&mut self) {
        self.child = Self::spawn(&self.directory, self.port);
        self.listens().await;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("cache.log")).unwrap_or_default()
    }

    fn url(&self, login: &str) -> String {
        format!("http://{login}@127.0.0.1:{}", self.port)
    }
}

#[tokio::test]
async fn squid_killed_restarted_and_frozen_costs_no_attempt() {
    let mut squid = Squid::start().await;
    let fixture = Fixture::new()
        .await
        .with(&format!("delivery.proxy = \"{}\"\n{LISTEN}", squid.url("bob:s3cret")));
    let mut endpoints = ["/a", "/b"].map(|path| fixture.endpoint(path)).to_vec();
    endpoints
        .iter_mut()
        .for_each(|endpoint| drop(endpoint.insert("timeout", 3000)));
    let organization = fixture.organization(endpoints).await;
    let mut daemon = fixture.daemon().await;
    award(&fixture, organization, 10).await;
    assert_first_attempts(&fixture, 20).await;

    squid.kill().await;
    award(&fixture, organization, 10).await;
    daemon.wait_for(begins).await;
    squid.restart().await;
    assert_first_attempts(&fixture, 40).await;

    // The kernel takes connections for it, and nobody answers.
    squid.signal(Signal::SIGSTOP);
    award(&fixture, organization, 10).await;
    daemon.wait_for_nth(begins, 2).await;
    let ready = get(address(&daemon).await, "/readyz").await;
    assert!(
        ready.body.contains("takes connections and does not respond"),
        "{ready:?}"
    );
    squid.signal(Signal::SIGCONT);
    assert_first_attempts(&fixture, 60).await;
    daemon.wait_for_nth(ends, 2).await;
    assert_eq!((daemon.count(begins), daemon.count(ends)), (2, 2));
    assert_eq!(daemon.count(is_failure), 0, "{:#?}", daemon.lines());
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn squid_refuses_a_login_a_target_and_a_dead_one_as_it_does() {
    let squid = Squid::start().await;
    let fixture = Fixture::new()
        .await
        .with(&format!("delivery.proxy = \"{}\"\n{LISTEN}", squid.url("bob:hunter2")));
    let (good, mut forbidden, mut dead) = (fixture.endpoint("/a"), fixture.endpoint("/f"), fixture.endpoint("/d"));
    forbidden.insert("url", "http://127.0.0.3:9/");
    dead.insert("url", "http://127.0.0.4:9/");
    let good = fixture.organization(vec![good]).await;
    let bad = fixture
        .organization(vec![forbidden, dead, fixture.endpoint("/b")])
        .await;
    let mut daemon = fixture.daemon().await;
    award(&fixture, good, 5).await;
    let line = daemon.wait_for(begins).await;
    assert!(
        line["message"].as_str().unwrap().contains("refuses the login (407)"),
        "{line}"
    );
    let settings = format!("delivery.proxy = \"{}\"\n{LISTEN}", squid.url("bob:s3cret"));
    fixture.configure(&settings);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(ends).await;
    assert_first_attempts(&fixture, 5).await;

    award(&fixture, bad, 2).await;
    for reason in ["the proxy answered 403 to CONNECT", "the proxy answered 503 to CONNECT"] {
        daemon.wait_for(|line| line["reason"] == reason).await;
    }
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 7)
        .await;
    assert_eq!((daemon.count(begins), daemon.count(ends)), (1, 1));
    assert!(daemon.stop().await.success());
}

/// Receivers whose certificate no system trusts, one of which demands a client's; and a token server that demands it, too.
#[tokio::test]
async fn through_squid_each_endpoint_trusts_and_shows_its_own_certificates() {
    let squid = Squid::start().await;
    let settings = format!("delivery.proxy = \"{}\"\n{LISTEN}", squid.url("bob:s3cret"));
    let fixture = Fixture::new().await.with(&settings);
    let [servers, others, clients] = ["servers", "others", "clients"].map(Authority::new);
    let demanding = |protocol: &[u8]| servers.acceptor_that(asking(&clients, false), "127.0.0.1", 2999, &[protocol]);
    let (url, seen) = receiver(demanding(b"h2")).await;
    let (other_url, other_seen) = receiver(others.acceptor("127.0.0.1", 2999, b"h2")).await;
    let tokens = token_server(demanding(b"http/1.1")).await;
    let auth = doc! {
        "authType": "oauth2_client_credentials", "tokenUrl": tokens, "clientId": "x", "clientSecret": "y",
        "scope": "events:write",
    };
    let endpoint = |url: &str, tls: Document| {
        let mut endpoint = fixture.endpoint("/");
        endpoint.insert("url", url.replace("receiver.test", "127.0.0.1"));
        endpoint.insert("tls", tls);
        endpoint
    };
    let ours = |name: &str| with_ca(shown(&clients, name, ""), &servers);
    let mut with_token = endpoint(&url, ours("token.test"));
    with_token.insert("auth", auth);
    let good = [
        endpoint(&url, ours("one.test")),
        endpoint(&url, ours("two.test")),
        endpoint(&other_url, doc! { "ca": others.pem() }),
        with_token,
    ];
    let astray = [
        endpoint(&other_url, ours("three.test")),
        endpoint(&url, with_ca(shown(&clients, "four.test", ""), &others)),
        endpoint(&url, with_ca(shown(&others, "five.test", ""), &servers)),
        endpoint(&url, doc! { "ca": servers.pem() }),
    ];
    let organization = fixture.organization([good, astray.clone()].concat()).await;
    let mut daemon = fixture.daemon().await;
    award(&fixture, organization, 3).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 12).await;
    for endpoint in &astray {
        let key = endpoint_key(organization, endpoint);
        fixture
            .wait_for_deliveries(
                doc! { "endpoint": key, "state": "pending", "attempts": { "$gte": 1 } },
                3,
            )
            .await;
    }
    let failed = fixture.deliveries(doc! { "state": "pending" }).await;
    let errors = |index: usize| {
        let key = endpoint_key(organization, &astray[index]);
        let of = failed.iter().filter(move |one| one.get_str("endpoint").unwrap() == key);
        of.map(|one| one.get_str("lastError").unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(errors(0), ["tls: certificate's issuer is not trusted"; 3]);
    assert_eq!(errors(1), ["tls: certificate's issuer is not trusted"; 3]);
    let refused = |error: &&str| error.contains("certificate") || error.starts_with("connection ");
    assert!([errors(2), errors(3)].concat().iter().all(refused), "{failed:#?}");
    let certificates: HashSet<_> = seen.lock().iter().map(|(_, certificate)| certificate.clone()).collect();
    assert_eq!((seen.lock().len(), certificates.len()), (9, 3));
    assert!(other_seen.lock().iter().all(|(_, certificate)| certificate.is_none()));
    assert_eq!(daemon.count(begins), 0, "it is not the proxy's fault");
    assert!(daemon.stop().await.success());
}
