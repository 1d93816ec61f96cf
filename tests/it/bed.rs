//! What a test runs in: a database of its own, a receiver of its own, and the real daemon as a process of its own.

use std::collections::HashMap;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, Document, RawDocumentBuf, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Received, Receiver, shared};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Notify;

/// Nothing that a test waits for takes longer, however busy the machine is.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Changes of which each follows the last within so long are one burst.
const BURST: Duration = Duration::from_millis(20);

pub struct Bed {
    pub database: Database,
    pub receiver: Receiver,
    uri: String,
    directory: TempDir,
    settings: String,
}

impl Bed {
    pub async fn new() -> Self {
        let set = shared().await.unwrap();
        Self::on(set.uri(), set.client().await.unwrap())
    }

    /// On another MongoDB than the one that all tests share.
    pub fn on(uri: &str, client: mongodb::Client) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            database: client.database(&name),
            receiver: Receiver::start().unwrap(),
            uri: uri.to_owned(),
            directory: TempDir::new().unwrap(),
            settings: String::new(),
        }
    }

    /// More lines for config.toml, as `section.key = value`.
    pub fn with(mut self, settings: &str) -> Self {
        self.settings = settings.to_owned();
        self
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    pub fn badge_users(&self) -> Collection<Document> {
        self.database.collection("badgeusers")
    }

    pub fn member_configs(&self) -> Collection<Document> {
        self.database.collection("memberconfigs")
    }

    pub fn deliveries(&self) -> Collection<Document> {
        self.database.collection("webhook_deliveries")
    }

    pub fn state(&self) -> Collection<Document> {
        self.database.collection("webhook_state")
    }

    pub fn statistics(&self) -> Collection<Document> {
        self.database.collection("webhook_stats")
    }

    /// An organization with these endpoints.
    pub async fn organization(&self, endpoints: Vec<Document>) -> ObjectId {
        let owner = ObjectId::new();
        let config = doc! { "_ownerId": owner, "webHookConfig": { "endpoints": endpoints } };
        self.member_configs().insert_one(config).await.unwrap();
        owner
    }

    /// An endpoint of the receiver that wants both types of event.
    pub fn endpoint(&self, path: &str) -> Document {
        doc! {
            "_id": ObjectId::new(), "name": path, "url": self.receiver.url(path), "enabled": true,
            "eventTypes": ["certificate_completed", "certificate_expired"],
        }
    }

    /// Writes config.toml and returns its path. `settings` are lines of it; what they don't set is as tests need it.
    pub fn configure(&self, settings: &str) -> std::path::PathBuf {
        let path = self.directory.path().join("config.toml");
        let needed = format!(
            "mongodb.uri = \"{}\"\nmongodb.database = \"{}\"\nscan.schedule = \"0 0 0 1 1 *\"\n\
             delivery.allow_http = true\ndelivery.allow_networks = [\"127.0.0.0/8\"]\nservice.metrics_listen = \"\"\n",
            self.uri,
            self.database.name()
        );
        let key = |line: &str| line.split(" =").next().unwrap().to_owned();
        let set: Vec<_> = settings.lines().map(key).collect();
        let needed = needed.lines().filter(|line| !set.contains(&key(line)));
        let text: Vec<_> = needed.chain(settings.lines()).collect();
        std::fs::write(&path, text.join("\n")).unwrap();
        path
    }

    /// `certhookd` with these arguments, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let config = self.configure(&self.settings);
        let mut command = Command::new(env!("CARGO_BIN_EXE_certhookd"));
        command
            .arg("--config")
            .arg(config)
            .args(["--log-format", "json"])
            .args(arguments);
        command
            .env_clear()
            .env("CERTHOOKD_LOG", "certhookd=debug,warn")
            .env("PATH", std::env::var("PATH").unwrap());
        command.kill_on_drop(true);
        command
    }

    /// Runs `certhookd` with these arguments to its end.
    pub async fn outcome(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments)).await
    }

    /// The daemon, ready.
    pub async fn daemon(&self) -> Daemon {
        let daemon = self.launch();
        daemon.wait_for(|line| line["message"] == "ready").await;
        daemon
    }

    /// The daemon, just started.
    pub fn launch(&self) -> Daemon {
        Daemon::spawn(self.command(&["run"]))
    }

    pub async fn wait_for(&self, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        self.receiver.wait_for(enough, LIMIT).await.unwrap()
    }

    /// Has MongoDB note the operations on this database that match, from now on: see [`Bed::profiled`].
    pub async fn profile(&self, operations: &Document) {
        let profile = doc! { "profile": 1, "filter": operations.clone() };
        self.database.run_command(profile).await.unwrap();
    }

    /// What it has noted of these.
    pub async fn profiled(&self, operations: &Document) -> Vec<Document> {
        let noted = self.database.collection("system.profile");
        let noted = noted.find(operations.clone()).await.unwrap();
        noted.try_collect().await.unwrap()
    }

    /// Waits until the collection holds `count` documents that match: looks, and looks again after each burst of changes.
    pub async fn wait_for_count(&self, collection: &Collection<Document>, filter: Document, count: u64) {
        let watch = || async {
            let ids = collection.watch().pipeline([doc! { "$project": { "_id": 1 } }]);
            let changes = ids.max_await_time(BURST).await.unwrap();
            changes.with_type::<RawDocumentBuf>()
        };
        let found = async {
            // Opened before looking, so that no change falls in between.
            let mut changes = watch().await;
            while collection.count_documents(filter.clone()).await.unwrap() != count {
                while changes.next_if_any().await.unwrap().is_none() && changes.is_alive() {}
                while changes.next_if_any().await.unwrap().is_some() {}
                // Ended by the collection's.
                if !changes.is_alive() {
                    changes = watch().await;
                }
            }
        };
        if tokio::time::timeout(LIMIT, found).await.is_err() {
            let found: u64 = collection.count_documents(filter.clone()).await.unwrap();
            panic!(
                "{found} documents instead of {count} in {} match {filter}",
                collection.name()
            );
        }
    }

    /// Waits until the statistics have counted all that is recorded by now.
    pub async fn wait_until_counted(&self) {
        self.wait_for_count(&self.deliveries(), doc! { "state": { "$exists": false } }, 0)
            .await;
    }
}

/// A certificate that expired an hour ago.
pub fn expired(owner: ObjectId) -> Document {
    let now = Clock::local();
    certificate(owner, Some(DateTime::from_millis(now.timestamp_millis() - 3_600_000)))
}

/// Certificates that expired, one second after the other, the last an hour ago.
pub fn expired_in_turn(owner: ObjectId, count: i64) -> Vec<Document> {
    let last = Clock::local().timestamp_millis() - 3_600_000;
    let expires = |place| DateTime::from_millis(last - (count - 1 - place) * 1000);
    (0..count)
        .map(|place| certificate(owner, Some(expires(place))))
        .collect()
}

/// A certificate that expires then.
pub fn certificate(owner: ObjectId, expires: Option<DateTime>) -> Document {
    let now = Clock::local();
    doc! {
        "_id": ObjectId::new(), "_userId": ObjectId::new(), "_ownerId": owner, "_badgeId": ObjectId::new(),
        "creationDate": now, "expires": expires, "disabled": false, "expiryReminderSent": false,
        "_lessonActiveIds": [ObjectId::new()], "ruleData": { "type": "track", "name": "Safety" },
        "createdAt": now, "updatedAt": now, "__v": 0,
    }
}

/// How a `certhookd` ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub log: Vec<Value>,
}

impl Outcome {
    pub async fn of(mut command: Command) -> Self {
        let output = command.stdin(Stdio::null()).output();
        let output = tokio::time::timeout(LIMIT, output).await.unwrap().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        let line = |line: &str| serde_json::from_str(line).unwrap_or(Value::String(line.to_owned()));
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            log: log.lines().map(line).collect(),
        }
    }

    /// The texts of the log's errors.
    pub fn errors(&self) -> Vec<&str> {
        let errors = self.log.iter().filter(|line| line["level"] == "ERROR");
        errors.filter_map(|line| line["message"].as_str()).collect()
    }
}

/// A running `certhookd`, with its log.
pub struct Daemon {
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Value>>,
    grown: Notify,
}

impl Daemon {
    pub fn spawn(command: Command) -> Self {
        Self::spawn_with(command, Stdio::null())
    }

    /// With its standard output to read.
    pub fn spawn_telling(command: Command) -> (Self, ChildStdout) {
        let mut daemon = Self::spawn_with(command, Stdio::piped());
        let stdout = daemon.child.stdout.take().unwrap();
        (daemon, stdout)
    }

    fn spawn_with(mut command: Command, stdout: Stdio) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::<Log>::default();
        let sink = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.lines.lock().push(value);
                sink.grown.notify_waiters();
            }
        });
        Self { child, log }
    }

    /// Waits for a line of the log, and returns it.
    pub async fn wait_for(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_nth(wanted, 1).await
    }

    /// Waits for the nth such line.
    pub async fn wait_for_nth(&self, wanted: impl Fn(&Value) -> bool, n: usize) -> Value {
        let found = async {
            loop {
                let grown = self.log.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                if let Some(line) = self.log.lines.lock().iter().filter(|line| wanted(line)).nth(n - 1) {
                    return line.clone();
                }
                grown.await;
            }
        };
        match tokio::time::timeout(LIMIT, found).await {
            Ok(line) => line,
            Err(_) => panic!("no such line in the log:\n{}", self.text()),
        }
    }

    pub fn lines(&self) -> Vec<Value> {
        self.log.lines.lock().clone()
    }

    pub fn count(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.log.lines.lock().iter().filter(|line| wanted(line)).count()
    }

    fn text(&self) -> String {
        self.log.lines.lock().iter().map(|line| format!("{line}\n")).collect()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(LIMIT, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("still running:\n{}", self.text()))
            .unwrap()
    }

    /// SIGTERM, and the exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }
}

/// The `webhook-id` of a certificate's award.
pub fn completed_id(document: &Document) -> String {
    event_id("certificate_completed", document, "creationDate")
}

/// The `webhook-id` of a certificate's expiry.
#[allow(dead_code)]
pub fn expired_id(document: &Document) -> String {
    event_id("certificate_expired", document, "expires")
}

fn event_id(event_type: &str, document: &Document, instant: &str) -> String {
    let at = document.get_datetime(instant).unwrap().timestamp_millis();
    format!("{event_type}_{}_{at}", document.get_object_id("_id").unwrap())
}

/// What was received, by path and `webhook-id`, and how often.
#[allow(dead_code)]
pub fn heard(requests: &[Received]) -> HashMap<(String, String), usize> {
    let mut heard = HashMap::new();
    for request in requests {
        let key = (request.path.clone(), request.header("webhook-id").to_owned());
        *heard.entry(key).or_default() += 1;
    }
    heard
}

/// Whether the line tells of a scan that ended.
pub fn is_scan(line: &Value) -> bool {
    line["message"] == "scan finished"
}
