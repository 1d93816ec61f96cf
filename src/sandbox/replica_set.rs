//! A private replica set, or a standalone mongod, with the accidents that tests need.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use nix::sys::signal::Signal;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use super::binary::mongod_binary;
use super::cleanup::Cleanup;
use super::mongod::Mongod;

const NAME: &str = "sandbox";

/// The user that may do everything where a login is required, and its password.
const ROOT: &str = "root";
const PASSWORD: &str = "sandbox";

/// The key by which the members know that they are of one set.
const KEY_FILE: &str = "key";

/// How long to wait for a primary, and for the other members to follow it.
const ELECTION_LIMIT: Duration = Duration::from_secs(60);

/// Long enough for a busy machine of two cores to keep its primary, short enough for a test of its loss.
const ELECTION_TIMEOUT_MS: i32 = 2_000;

/// Member states, as `replSetGetStatus` numbers them.
const PRIMARY: i32 = 1;
const SECONDARY: i32 = 2;

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Members of the replica set: 1 or 3. None: a standalone mongod, which has no change streams.
    pub members: Option<usize>,
    /// WiredTiger's cache of each member, in GB: 0.25 at least.
    pub cache_gb: f64,
    /// The oplog's size of each member, in MB: small ones roll over soon.
    pub oplog_mb: u32,
    /// From one checkpoint of each member to the next, in seconds: the oplog is cut no further than to the last one.
    pub checkpoint_s: u32,
    /// Whether clients must log in; only with members. [`ReplicaSet::uri`] then holds the login of a user that may do everything.
    pub login: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            members: Some(1),
            cache_gb: 0.5,
            oplog_mb: 256,
            checkpoint_s: 60,
            login: false,
        }
    }
}

/// Mongods on 127.0.0.1 in temporary directories. They end and their files go with this value, or with the process.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<Mongod>,
    uri: String,
    /// `USER:PASSWORD@`, or nothing.
    login: String,
    directory: PathBuf,
    /// `Some` until dropped.
    cleanup: Option<Cleanup>,
}

impl ReplicaSet {
    /// Starts the members and waits until there is a primary that the others follow.
    ///
    /// Fetches a mongod first where none is found, see [`mongod_binary`].
    pub async fn start(options: Options) -> Result<Self> {
        let binary = tokio::task::spawn_blocking(mongod_binary).await??;
        let cleanup = Cleanup::start()?;
        let arguments = arguments(options, cleanup.directory())?;
        let members = (0..options.members.unwrap_or(1))
            .map(|n| Mongod::start(&binary, cleanup.directory().join(n.to_string()), arguments.clone()))
            .collect::<Result<Vec<_>>>()?;
        let mut set = Self {
            uri: uri(&members, "", options.members.is_some()),
            members,
            login: String::new(),
            directory: cleanup.directory().to_owned(),
            cleanup: Some(cleanup),
        };
        for member in &set.members {
            member.ready().await?;
        }
        if options.members.is_some() {
            set.initiate(options.login).await?;
        }
        Ok(set)
    }

    /// Where the members keep their files: the log of member n is `n/log`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where clients connect: all members, as an operator would write it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Where clients connect to talk to one member alone, counted from 0.
    pub fn member_uri(&self, member: usize) -> String {
        format!(
            "mongodb://{}127.0.0.1:{}/?directConnection=true",
            self.login,
            self.members[member].port()
        )
    }

    /// The port of 127.0.0.1 on which a member listens, the same after a restart.
    pub fn port(&self, member: usize) -> u16 {
        self.members[member].port()
    }

    /// A new client, which belongs to the calling runtime: each test makes its own.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::with_uri_str(&self.uri).await?)
    }

    /// A database over a new client.
    pub async fn database(&self, name: &str) -> Result<Database> {
        Ok(self.client().await?.database(name))
    }

    /// The member that is primary now. Waits for the election if there is none.
    pub async fn primary(&self) -> Result<usize> {
        let hello = command(&self.uri, doc! { "hello": 1 }).await?;
        let me = hello.get_str("me").context("a standalone mongod is no primary")?;
        let member = self
            .members
            .iter()
            .position(|member| me.ends_with(&format!(":{}", member.port())));
        member.with_context(|| format!("the primary {me} is none of the sandbox"))
    }

    /// Ends a member by SIGKILL, and returns when it has ended.
    pub fn kill(&self, member: usize) -> Result<()> {
        self.members[member].kill()
    }

    /// Starts a killed member over its files, and returns when it takes connections. An election may still follow:
    /// [`ReplicaSet::primary`] awaits it.
    pub async fn restart(&self, member: usize) -> Result<()> {
        self.members[member].spawn()?;
        self.members[member].ready().await
    }

    /// Freezes a member by SIGSTOP: its connections stay open, and nothing replies.
    pub fn freeze(&self, member: usize) -> Result<()> {
        self.members[member].freeze()
    }

    /// Lets a frozen member go on.
    pub fn thaw(&self, member: usize) -> Result<()> {
        self.members[member].signal(Signal::SIGCONT)
    }

    /// Makes the primary step down and refuse election for `seconds`. A single member is primary again after that.
    pub async fn step_down(&self, seconds: u32) -> Result<()> {
        command(
            &self.uri,
            doc! { "replSetStepDown": seconds, "secondaryCatchUpPeriodSecs": 0, "force": true },
        )
        .await?;
        Ok(())
    }

    async fn initiate(&mut self, login: bool) -> Result<()> {
        let members = self.members.iter().enumerate();
        let members: Vec<_> = members
            .map(|(n, member)| doc! { "_id": n as i32, "host": format!("127.0.0.1:{}", member.port()) })
            .collect();
        let settings = doc! { "electionTimeoutMillis": ELECTION_TIMEOUT_MS, "heartbeatIntervalMillis": 200 };
        let config = doc! { "_id": NAME, "members": members, "settings": settings };
        command(&self.member_uri(0), doc! { "replSetInitiate": config })
            .await
            .context("cannot initiate the replica set")?;
        if login {
            self.create_root().await?;
        }
        self.settled().await
    }

    /// Creates the first user: a mongod without users allows that to every client on its own machine.
    async fn create_root(&mut self) -> Result<()> {
        let create = doc! { "createUser": ROOT, "pwd": PASSWORD, "roles": ["root"] };
        command(&self.uri, create)
            .await
            .context("cannot create the first user")?;
        self.login = format!("{ROOT}:{PASSWORD}@");
        self.uri = uri(&self.members, &self.login, true);
        Ok(())
    }

    /// Waits until one member is primary and the others are secondaries.
    async fn settled(&self) -> Result<()> {
        let limit = Instant::now() + ELECTION_LIMIT;
        loop {
            let states = self.states().await?;
            let followers = states.iter().filter(|state| **state == SECONDARY).count();
            if followers + 1 == states.len() && states.contains(&PRIMARY) {
                return Ok(());
            }
            if followers == states.len() {
                // Saves the election timeout. Refused where an election is under way already, which is as good.
                let _ = command(&self.member_uri(0), doc! { "replSetStepUp": 1 }).await;
            }
            ensure!(
                Instant::now() < limit,
                "the replica set has no primary after {ELECTION_LIMIT:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Each member's state, as the first one sees it.
    async fn states(&self) -> Result<Vec<i32>> {
        let status = command(&self.member_uri(0), doc! { "replSetGetStatus": 1 }).await?;
        let members = status
            .get_array("members")
            .context("replSetGetStatus names no members")?;
        let state = |member: &bson::Bson| member.as_document().and_then(|member| member.get_i32("state").ok());
        Ok(members.iter().filter_map(state).collect())
    }
}

impl Drop for ReplicaSet {
    fn drop(&mut self) {
        drop(self.cleanup.take());
        self.members.iter().for_each(Mongod::reap);
    }
}

fn arguments(options: Options, directory: &Path) -> Result<Vec<String>> {
    let mut arguments = vec!["--wiredTigerCacheSizeGB".to_owned(), options.cache_gb.to_string()];
    arguments.extend(["--syncdelay".to_owned(), options.checkpoint_s.to_string()]);
    if options.members.is_some() {
        arguments.extend(["--replSet", NAME, "--oplogSize"].map(str::to_owned));
        arguments.push(options.oplog_mb.to_string());
    }
    if options.login {
        let key = directory.join(KEY_FILE);
        fs::write(&key, "c2FuZGJveA==").context("cannot write the members' key")?;
        // MongoDB refuses a key that others can read.
        fs::set_permissions(&key, Permissions::from_mode(0o600)).context("cannot protect the members' key")?;
        arguments.extend(["--keyFile".to_owned(), key.display().to_string()]);
    }
    Ok(arguments)
}

fn uri(members: &[Mongod], login: &str, replicated: bool) -> String {
    let hosts: Vec<_> = members
        .iter()
        .map(|member| format!("127.0.0.1:{}", member.port()))
        .collect();
    let query = if replicated {
        format!("?replicaSet={NAME}")
    } else {
        String::new()
    };
    format!("mongodb://{login}{}/{query}", hosts.join(","))
}

/// Runs one administrative command over a client of its own, which is shut down before this returns.
async fn command(uri: &str, command: Document) -> Result<Document> {
    let mut options = ClientOptions::parse(uri).await?;
    options.server_selection_timeout = Some(ELECTION_LIMIT);
    let client = Client::with_options(options)?;
    let reply = client.database("admin").run_command(command).await;
    client.shutdown().immediate(true).await;
    Ok(reply?)
}

/// One replica set of one member for the whole process, started by the first caller; it ends with the process.
///
/// Made for tests: each uses a database of its own, and a client of its own runtime.
pub async fn shared() -> Result<&'static ReplicaSet> {
    static SHARED: OnceCell<ReplicaSet> = OnceCell::const_new();
    SHARED.get_or_try_init(|| ReplicaSet::start(Options::default())).await
}
