//! What a round runs on: a database of its own, a receiver, and instances, each behind a network of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::doc;
use certhookd::sandbox::{Proxy, Receiver, ReplicaSet, Response};
use mongodb::Database;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::daemon::{Daemon, GRACE};
use super::freeze::Freeze;
use super::login::User;
use super::plan::Plan;
use super::platform::PATHS;

/// The driver notices soon that a server is unavailable.
const SOON: &str = "serverSelectionTimeoutMS=2000&connectTimeoutMS=2000&heartbeatFrequencyMS=1000";

/// How long the daemons may take until they watch.
const READY_LIMIT: Duration = Duration::from_secs(60);

pub struct Fixture<'a> {
    pub set: &'a ReplicaSet,
    pub database: Database,
    pub user: Arc<User>,
    pub receiver: Receiver,
    pub proxies: Vec<Proxy>,
    pub daemons: Vec<Daemon>,
    pub directory: TempDir,
    /// Instances that were frozen, and what they had open then.
    pub freezes: Mutex<Vec<Freeze>>,
    /// How long each endpoint takes for a response.
    paces: [Duration; PATHS.len()],
}

impl<'a> Fixture<'a> {
    /// The plan's instances, not started yet.
    pub async fn new(set: &'a ReplicaSet, seed: u64, plan: &Plan) -> Result<Self> {
        let database = set.database(&format!("faults_{seed}")).await?;
        database.drop().await?;
        let mut fixture = Self {
            set,
            user: Arc::new(User::create(&database).await?),
            database,
            receiver: Receiver::start()?,
            proxies: Vec::new(),
            daemons: Vec::new(),
            directory: tempfile::Builder::new().prefix("certhookd-faults-").tempdir()?,
            freezes: Mutex::default(),
            paces: plan.paces,
        };
        for (number, skew_s) in plan.skews_s.iter().copied().enumerate() {
            let proxy = Proxy::start(set.port(0)).await?;
            let config = fixture.directory.path().join(format!("daemon-{number}.toml"));
            configure(&config, &proxy, &fixture)?;
            fixture.proxies.push(proxy);
            fixture
                .daemons
                .push(Daemon::new(config, skew_s, Arc::clone(&fixture.user)));
        }
        PATHS.iter().for_each(|path| fixture.respond_as_usual(path));
        Ok(fixture)
    }

    /// The endpoint responds with 200, as fast as the plan says.
    pub fn respond_as_usual(&self, path: &str) {
        self.receiver.script(path, [Response::ok().after(self.pace(path))]);
    }

    /// How long an endpoint takes for a response.
    pub fn pace(&self, path: &str) -> Duration {
        let place = PATHS.iter().position(|known| *known == path);
        place.map_or(Duration::ZERO, |place| self.paces[place])
    }

    /// All endpoints respond at once.
    pub fn respond_at_once(&self) {
        PATHS
            .iter()
            .for_each(|path| self.receiver.script(path, [Response::ok()]));
    }

    /// Starts all instances and waits until one of them has begun to watch: what is awarded before is nobody's.
    pub async fn open(&self) -> Result<()> {
        for daemon in &self.daemons {
            daemon.start(None).await?;
        }
        let limit = Instant::now() + READY_LIMIT;
        let state = self.database.collection::<bson::Document>("webhook_state");
        while state.find_one(doc! { "_id": "watch" }).await?.is_none() {
            ensure!(Instant::now() < limit, "no daemon watches after {READY_LIMIT:?}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Starts instances again that ended because the user was missing when they started.
    pub async fn revive(&self) -> Result<()> {
        for daemon in &self.daemons {
            daemon.revive().await?;
        }
        Ok(())
    }

    /// Stops all instances, in order.
    pub async fn close(&self) -> Result<()> {
        for daemon in &self.daemons {
            daemon.terminate().await?;
        }
        Ok(())
    }
}

/// A small queue, so that the outbox has its part; a scan every second, so that no accident is slept through.
fn configure(path: &Path, proxy: &Proxy, fixture: &Fixture<'_>) -> Result<()> {
    let (login, database) = (fixture.user.login(), fixture.database.name());
    let text = format!(
        "mongodb.uri = \"mongodb://{login}@{}/?directConnection=true&{SOON}\"\nmongodb.database = \"{database}\"\n\
         scan.schedule = \"* * * * * *\"\nqueue.capacity = 64\ndelivery.max_in_flight = 64\n\
         delivery.allow_http = true\ndelivery.allow_networks = [\"127.0.0.0/8\"]\n\
         service.metrics_listen = \"\"\nservice.shutdown_grace = \"{GRACE}\"\n",
        proxy.address(),
    );
    Ok(std::fs::write(path, text)?)
}
