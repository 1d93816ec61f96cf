//! What a test runs in: a database of its own, a receiver of its own, and the real daemon as a process of its own.

mod certificates;
pub mod contract;
mod daemon;
mod deliveries;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::sandbox::{Received, Receiver, shared};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use tempfile::TempDir;
use tokio::process::Command;

pub use certificates::{certificate, completed_id, expired, expired_id, expired_in_turn};
pub use daemon::{Daemon, Outcome, is_scan};
pub use deliveries::{endpoint_key, pending_batch};

/// Nothing that a test waits for takes longer, however busy the machine is.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Fixture {
    pub database: Database,
    pub receiver: Receiver,
    uri: String,
    directory: TempDir,
    settings: String,
    is_odd: bool,
}

impl Fixture {
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
            is_odd: false,
        }
    }

    /// More lines for config.toml, as `section.key = value`.
    pub fn with(mut self, settings: &str) -> Self {
        self.settings = settings.to_owned();
        self
    }

    /// Its certificates, or what the platform's collections hold, make no sense on purpose: what is sent of them is not held to the
    /// schemas of docs/.
    pub fn odd(mut self) -> Self {
        self.is_odd = true;
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

    /// The batches. What becomes of the deliveries in them: see [`Fixture::deliveries`].
    pub fn outbox(&self) -> Collection<Document> {
        self.database.collection("webhook_outbox")
    }

    pub fn state(&self) -> Collection<Document> {
        self.database.collection("webhook_state")
    }

    pub fn operations(&self) -> Collection<Document> {
        self.database.collection("webhook_operations")
    }

    pub fn statistics(&self) -> Collection<Document> {
        self.database.collection("webhook_stats")
    }

    /// An organization with these endpoints.
    pub async fn organization(&self, endpoints: Vec<Document>) -> ObjectId {
        let organization = ObjectId::new();
        let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } };
        self.member_configs().insert_one(config).await.unwrap();
        organization
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

    /// Writes a file beside config.toml and returns its path.
    pub fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
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

    /// Asks for an operation as the platform's back office does, and waits until it has ended.
    pub async fn operate(&self, operation: Document) -> Document {
        let inserted = self.operations().insert_one(operation).await.unwrap();
        self.ended(&inserted.inserted_id).await
    }

    /// The operation, once it has ended.
    pub async fn ended(&self, id: &Bson) -> Document {
        let ended = doc! { "_id": id, "finishedAt": { "$exists": true } };
        self.wait_for_count(&self.operations(), ended.clone(), 1).await;
        self.operations().find_one(ended).await.unwrap().unwrap()
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

    /// Has MongoDB note the operations on this database that match, from now on: see [`Fixture::profiled`].
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

    /// Ends that, and forgets what was noted.
    pub async fn stop_profiling(&self) {
        self.database.run_command(doc! { "profile": 0 }).await.unwrap();
        let noted = self.database.collection::<Document>("system.profile");
        noted.drop().await.unwrap();
    }
}

/// What the receiver got is held to the contract when the test ends.
impl Drop for Fixture {
    fn drop(&mut self) {
        if !self.is_odd && !std::thread::panicking() {
            let requests = self.receiver.requests();
            // The others ask for tokens.
            let deliveries = requests
                .iter()
                .filter(|request| !request.header("webhook-id").is_empty());
            deliveries.for_each(contract::hold);
        }
    }
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
