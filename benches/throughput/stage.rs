//! Where the cases play: one throwaway MongoDB, and for each measurement a database of its own.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Bulk, Options, ReplicaSet};
use certhookd::store::{OUTBOX, SCAN_INDEX};
use mongodb::options::{Hint, IndexOptions};
use mongodb::{Client, Collection, Database, IndexModel};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{self, Process};

/// The release binary.
pub const DAEMON: &str = env!("CARGO_BIN_EXE_certhookd");

/// How often MongoDB is asked whether all results are written, once the last request came.
const LOOK: Duration = Duration::from_millis(2);

/// Deliveries in a batch, as many as the daemon puts there.
const BATCH: usize = 64;

/// Batches in one insert.
const BATCHES: usize = 200;

/// The MongoDB of all cases.
pub struct Stage {
    set: ReplicaSet,
    client: Client,
    mongod: Pid,
}

/// One database: organizations with an endpoint each, and their certificates.
pub struct Fixture {
    pub database: Database,
    pub bulk: Bulk,
    uri: String,
    receiver: SocketAddr,
    directory: TempDir,
}

impl Stage {
    /// Starts a replica set of one member, large enough for a million certificates and what happens to them.
    pub async fn start() -> Result<Self> {
        let options = Options {
            cache_gb: 2.0,
            oplog_mb: 2_048,
            ..Options::default()
        };
        let set = ReplicaSet::start(options).await?;
        let client = set.client().await?;
        let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await?;
        let mongod = Pid::from_raw(i32::try_from(status.get_i64("pid")?)?);
        Ok(Self { set, client, mongod })
    }

    /// CPU seconds that MongoDB used so far.
    pub fn mongod_cpu(&self) -> Result<f64> {
        process::cpu(self.mongod)
    }

    /// What all figures depend on.
    pub async fn machine(&self) -> Result<String> {
        let cores = std::thread::available_parallelism()?;
        let info = self
            .client
            .database("admin")
            .run_command(doc! { "buildInfo": 1 })
            .await?;
        Ok(format!(
            "{cores} cores shared by daemon, mongod {} and receiver; certhookd {}",
            info.get_str("version")?,
            env!("CARGO_PKG_VERSION")
        ))
    }

    /// A new database with this many organizations, their endpoints at `receiver`, and the scan's index.
    pub async fn fixture(&self, organizations: usize, receiver: SocketAddr) -> Result<Fixture> {
        self.fixture_at(organizations, receiver, |i| format!("http://{receiver}/{i}"))
            .await
    }

    /// The same with the endpoint of organization i at `url(i)`; `receiver` is where a baseline sends.
    pub async fn fixture_at(
        &self,
        organizations: usize,
        receiver: SocketAddr,
        url: impl Fn(usize) -> String,
    ) -> Result<Fixture> {
        let fixture = Fixture {
            database: self.client.database(&format!("bench_{:08x}", fastrand::u32(..))),
            uri: self.set.uri().to_owned(),
            receiver,
            bulk: Bulk::new(fastrand::u64(..), organizations),
            directory: TempDir::new()?,
        };
        let configs: Collection<Document> = fixture.database.collection("memberconfigs");
        configs.insert_many(fixture.bulk.member_configs(url)).await?;
        let index = IndexModel::builder().keys(doc! { "expiryReminderSent": 1, "expires": 1 });
        let named = IndexOptions::builder().name(SCAN_INDEX.to_owned()).build();
        fixture.badge_users().create_index(index.options(named).build()).await?;
        Ok(fixture)
    }
}

impl Fixture {
    pub fn badge_users(&self) -> Collection<Document> {
        self.database.collection("badgeusers")
    }

    /// The organizations.
    pub fn organizations(&self) -> &[ObjectId] {
        self.bulk.organizations()
    }

    /// Adds certificates that expired a minute ago and before, a millisecond apart.
    pub async fn expired(&mut self, n: usize) -> Result<()> {
        self.insert(n, -60_000, -1).await
    }

    /// Adds certificates that expire in an hour and later, a millisecond apart.
    pub async fn alive(&mut self, n: usize) -> Result<()> {
        self.insert(n, 3_600_000, 1).await
    }

    /// Adds deliveries that have waited for the endpoint of the organization at `place` since an hour ago, as the outbox keeps them.
    pub async fn backlog(&self, place: usize, n: usize) -> Result<()> {
        let organization = self.organizations()[place];
        self.backlog_of(&format!("{organization}/{organization}"), n).await
    }

    async fn backlog_of(&self, endpoint: &str, n: usize) -> Result<()> {
        let due = DateTime::from_millis(Clock::local().timestamp_millis() - 3_600_000);
        let delivery = |i: usize| {
            let id = ObjectId::new();
            doc! {
                "event": format!("certificate_expired_{id}_{i}"), "type": "certificate_expired", "certificate": id,
                "occurredAt": due, "payload": "x".repeat(430),
            }
        };
        let batch = |first: usize| {
            let deliveries: Vec<_> = (first..n.min(first + BATCH)).map(delivery).collect();
            doc! {
                "_id": format!("{endpoint}/{}", ObjectId::new()), "v": 2, "version": 1, "state": "pending",
                "endpoint": endpoint, "queue": format!("{endpoint}/live"), "due": due,
                "open": i32::try_from(deliveries.len()).unwrap_or(0), "createdAt": due, "deliveries": deliveries, "results": [],
            }
        };
        let outbox: Collection<Document> = self.database.collection(OUTBOX);
        let batches: Vec<_> = (0..n).step_by(BATCH).collect();
        for some in batches.chunks(BATCHES) {
            outbox
                .insert_many(some.iter().map(|first| batch(*first)))
                .ordered(false)
                .await?;
        }
        Ok(())
    }

    /// The endpoints want that many requests per second each.
    pub async fn limit_rate(&self, rate: usize) -> Result<()> {
        let configs: Collection<Document> = self.database.collection("memberconfigs");
        let set = doc! { "$set": { "webHookConfig.endpoints.$[].rateLimit": i32::try_from(rate)? } };
        configs.update_many(doc! {}, set).await?;
        Ok(())
    }

    /// Gives the organization at `place` that many endpoints instead of its own, at `url`, with this timeout in ms; for each of
    /// them, `n` deliveries wait.
    pub async fn endpoints(&self, place: usize, count: usize, url: &str, timeout: i32, n: usize) -> Result<()> {
        let endpoint = |i: usize| {
            doc! {
                "_id": ObjectId::new(), "name": format!("{i}"), "url": format!("{url}{i}"), "enabled": true, "timeout": timeout,
                "eventTypes": ["certificate_expired", "certificate_completed"],
            }
        };
        let endpoints: Vec<_> = (0..count).map(endpoint).collect();
        let configs: Collection<Document> = self.database.collection("memberconfigs");
        for endpoint in &endpoints {
            let key = format!("{}/{}", self.organizations()[place], endpoint.get_object_id("_id")?);
            self.backlog_of(&key, n).await?;
        }
        let of = doc! { "_ownerId": self.organizations()[place] };
        configs
            .update_one(of, doc! { "$set": { "webHookConfig.endpoints": endpoints } })
            .await?;
        Ok(())
    }

    /// Adds certificates of the organizations at `places`, in turn, that expired a minute ago and before, a millisecond apart.
    pub async fn expired_of(&mut self, places: Range<usize>, n: usize) -> Result<()> {
        let now = Clock::local().timestamp_millis() - 60_000;
        let certificate = |i: usize| {
            let at = DateTime::from_millis(now - i as i64);
            self.bulk.certificate(places.start + i % places.len(), Some(at))
        };
        let certificates: Vec<_> = (0..n).map(certificate).collect();
        self.badge_users().insert_many(certificates).await?;
        Ok(())
    }

    /// As if no daemon had run here before: the next one's change stream begins at its start, as in a new fixture.
    pub async fn forget_daemons(&self) -> Result<()> {
        let state: Collection<Document> = self.database.collection("webhook_state");
        Ok(state.drop().await?)
    }

    async fn insert(&mut self, n: usize, first_ms: i64, step_ms: i64) -> Result<()> {
        let first = Clock::local().timestamp_millis() + first_ms;
        let expires = |i: usize| Some(DateTime::from_millis(first + step_ms * i as i64));
        let collection = self.badge_users();
        self.bulk.insert(&collection, n, expires).await
    }

    /// The daemon as an operator runs it, but that it scans only when asked to.
    pub async fn daemon(&self) -> Result<Process> {
        self.daemon_of(DAEMON).await
    }

    /// The same with another binary.
    pub async fn daemon_of(&self, binary: &str) -> Result<Process> {
        self.start(binary, "0 0 0 1 1 *").await
    }

    /// The daemon of that binary as an operator runs it, but that it scans on this schedule and not at its start.
    pub async fn start(&self, binary: &str, schedule: &str) -> Result<Process> {
        let config = self.directory.path().join("config.toml");
        let text = format!(
            "mongodb.uri = \"{}\"\nmongodb.database = \"{}\"\nscan.schedule = \"{schedule}\"\nscan.on_start = false\n\
             delivery.allow_http = true\ndelivery.allow_networks = [\"127.0.0.0/8\"]\nservice.metrics_listen = \"\"\n",
            self.uri,
            self.database.name()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(binary);
        command
            .arg("--config")
            .arg(config)
            .args(["--log-format", "json", "run"])
            .env_clear();
        Process::start(command).await
    }

    /// A baseline, which is this program in another part.
    pub async fn baseline(&self, part: &str) -> Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(part)
            .args([&self.uri, self.database.name(), &self.receiver.to_string()]);
        Process::start(command).await
    }

    /// Waits until no delivery is on its way any more: the last result is written.
    pub async fn recorded(&self) -> Result<()> {
        let outbox: Collection<Document> = self.database.collection(OUTBOX);
        let pending = || outbox.find_one(doc! {}).hint(Hint::Name("pending".into()));
        while pending().projection(doc! { "_id": 1 }).await?.is_some() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until that many instances share the endpoints: a newcomer does from 6 s of age.
    pub async fn shared(&self, instances: u64) -> Result<()> {
        let state: Collection<Document> = self.database.collection("webhook_state");
        let members = doc! { "$size": i64::try_from(instances)? };
        let settled = doc! { "_id": { "$regex": "^instance/" }, "members": members };
        while state.count_documents(settled.clone()).await? < instances {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    pub async fn drop(self) -> Result<()> {
        Ok(self.database.drop().await?)
    }
}
