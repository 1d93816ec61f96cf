//! `certhookd sandbox`: a small platform, to run a daemon or a receiver against.

use std::io;

use anyhow::{Context, Result};
use bson::{DateTime, Document};
use mongodb::{Client, Collection, Database};

use crate::model::Clock;
use crate::sandbox::{Options, Receiver, ReplicaSet, Samples};

/// The database's name, which is the configuration's default.
const DATABASE: &str = "beedeez";

/// Expired certificates, two per organization.
const EXPIRED: usize = 12;

/// The same people and secrets each time.
const SEED: u64 = 2024;

/// Holds until stdin closes. The first line on stdout is MongoDB's URI alone, for scripts.
pub(super) async fn run() -> Result<()> {
    let mut sandbox = Sandbox::start().await?;
    sandbox.add_expired(EXPIRED, Clock::local()).await?;
    say!("{}", sandbox.uri());
    say!(
        "receiver at http://{}; ends when its input closes",
        sandbox.receiver.address()
    );
    let closed = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await?;
    sandbox.end().await;
    closed
        .context("cannot read stdin, whose end ends the sandbox")
        .map(drop)
}

/// A replica set with the sample organizations, and the receiver at which their endpoints are.
pub(super) struct Sandbox {
    pub(super) receiver: Receiver,
    pub(super) samples: Samples,
    set: ReplicaSet,
    client: Client,
}

impl Sandbox {
    /// Starts both, and writes the organizations' configurations.
    pub(super) async fn start() -> Result<Self> {
        let set = ReplicaSet::start(Options::default()).await?;
        let receiver = Receiver::start()?;
        let sandbox = Self {
            samples: Samples::new(SEED, &format!("http://{}", receiver.address())),
            client: set.client().await?,
            receiver,
            set,
        };
        let configs = sandbox.samples.member_configs();
        let collection: Collection<Document> = sandbox.database().collection("memberconfigs");
        collection
            .insert_many(configs)
            .await
            .context("cannot write the sample organizations")?;
        Ok(sandbox)
    }

    pub(super) fn uri(&self) -> &str {
        self.set.uri()
    }

    /// Writes `n` certificates that have expired before `now`.
    pub(super) async fn add_expired(&mut self, n: usize, now: DateTime) -> Result<Vec<Document>> {
        let certificates = self.samples.expired(n, now);
        add(&self.badge_users(), &certificates).await?;
        Ok(certificates)
    }

    pub(super) fn badge_users(&self) -> Collection<Document> {
        self.database().collection("badgeusers")
    }

    /// Ends it, and removes all that it wrote.
    pub(super) async fn end(self) {
        self.client.shutdown().immediate(true).await;
    }

    fn database(&self) -> Database {
        self.client.database(DATABASE)
    }
}

/// Writes certificates as the platform would.
pub(super) async fn add(badge_users: &Collection<Document>, certificates: &[Document]) -> Result<()> {
    badge_users
        .insert_many(certificates)
        .await
        .context("cannot write the sample certificates")
        .map(drop)
}
