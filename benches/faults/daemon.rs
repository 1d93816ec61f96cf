//! One of the daemons: a process that is ended and started again, with one log for all these instances.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::freeze::Freeze;
use super::login::User;
use super::skew;

const BINARY: &str = env!("CARGO_BIN_EXE_certhookd");

/// What the daemon gives its requests in flight on SIGTERM, and how long it may take in all.
pub const GRACE: &str = "2s";
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The exit code for what a restart does not change, such as a refused login.
const MISCONFIGURED: i32 = 78;

/// What its log says once its start has succeeded.
const READY: &str = r#""message":"ready""#;

/// A process, and where its part of the log begins.
struct Running {
    child: Child,
    spawned: Instant,
    log_from: u64,
}

pub struct Daemon {
    config: PathBuf,
    log: PathBuf,
    skew_s: i64,
    user: Arc<User>,
    running: Mutex<Option<Running>>,
    complaints: parking_lot::Mutex<Vec<String>>,
}

impl Daemon {
    pub fn new(config: PathBuf, skew_s: i64, user: Arc<User>) -> Self {
        Self {
            log: config.with_extension("log"),
            config,
            skew_s,
            user,
            running: Mutex::default(),
            complaints: parking_lot::Mutex::default(),
        }
    }

    /// Starts it. `armed`: it kills itself when it comes to that step of the protocol, in one of three cases.
    pub async fn start(&self, armed: Option<&str>) -> Result<()> {
        *self.running.lock().await = Some(self.spawn(armed)?);
        Ok(())
    }

    fn spawn(&self, armed: Option<&str>) -> Result<Running> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let log_from = log.metadata()?.len();
        let mut command = Command::new(BINARY);
        command
            .arg("--config")
            .arg(&self.config)
            .args(["--log-format", "json", "run"])
            .env_clear()
            .env("CERTHOOKD_LOG", "certhookd=debug,warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        if let Some(step) = armed {
            command.env("FAILPOINTS", format!("{step}=33%return"));
        }
        skew::apply(&mut command, self.skew_s);
        Ok(Running {
            child: command.spawn().context("cannot start the daemon")?,
            spawned: Instant::now(),
            log_from,
        })
    }

    /// Starts it again if it has given up at its start because the user was missing.
    pub async fn revive(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        let Some(ended) = running.as_mut() else { return Ok(()) };
        if let Some(status) = ended.child.try_wait()?
            && self.missed_user(status, ended)?
        {
            *ended = self.spawn(None)?;
        }
        Ok(())
    }

    /// SIGKILL, if it still runs.
    pub async fn kill(&self) -> Result<()> {
        let Some(mut running) = self.running.lock().await.take() else {
            return Ok(());
        };
        if running.child.try_wait()?.is_none() {
            running.child.start_kill()?;
        }
        let status = running.child.wait().await?;
        self.judge(status, &running, Some(Signal::SIGKILL))
    }

    /// SIGTERM; it must end in time and say that all went well.
    pub async fn terminate(&self) -> Result<()> {
        let Some(mut running) = self.running.lock().await.take() else {
            return Ok(());
        };
        send(&running.child, Signal::SIGTERM)?;
        match timeout(STOP_LIMIT, running.child.wait()).await {
            Ok(status) => self.judge(status?, &running, None)?,
            Err(_) => self.complain(format!("not ended {STOP_LIMIT:?} after SIGTERM")),
        }
        Ok(())
    }

    /// SIGSTOP. `receiver` is the port of what it sends to. `None` if it has ended.
    pub async fn freeze(&self, receiver: u16) -> Result<Option<Freeze>> {
        let mut running = self.running.lock().await;
        let Some(Running { child, .. }) = running.as_mut() else {
            return Ok(None);
        };
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        child
            .id()
            .map(|pid| Freeze::begin(Pid::from_raw(i32::try_from(pid)?), receiver))
            .transpose()
    }

    /// SIGCONT.
    pub async fn thaw(&self) -> Result<()> {
        match self.running.lock().await.as_ref() {
            Some(running) => send(&running.child, Signal::SIGCONT),
            None => Ok(()),
        }
    }

    /// What it did that it must not: it ended by itself, with another status than 0, or not at all.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }

    fn judge(&self, status: ExitStatus, running: &Running, killed_by: Option<Signal>) -> Result<()> {
        let is_asked_for = match killed_by {
            Some(signal) => status.signal() == Some(signal as i32),
            None => status.success(),
        };
        if !is_asked_for && !self.missed_user(status, running)? {
            self.complain(format!("ended with {status}"));
        }
        Ok(())
    }

    /// Whether it gave up at its start, while the user was missing. Once it is ready it must wait for the user.
    fn missed_user(&self, status: ExitStatus, running: &Running) -> Result<bool> {
        if status.code() != Some(MISCONFIGURED) || !self.user.was_missing_since(running.spawned) {
            return Ok(false);
        }
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(running.log_from))?;
        let mut lines = BufReader::new(log).lines();
        let is_ready = lines.try_fold(false, |found, line| {
            Ok::<_, std::io::Error>(found || line?.contains(READY))
        })?;
        Ok(!is_ready)
    }

    fn complain(&self, what: String) {
        let name = self.config.file_stem().unwrap_or_default().to_string_lossy();
        self.complaints.lock().push(format!("{name}: {what}"));
    }
}

/// A process that has ended is left to whoever awaits it.
fn send(child: &Child, signal: Signal) -> Result<()> {
    let Some(pid) = child.id() else { return Ok(()) };
    kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("cannot send {signal}"))
}
