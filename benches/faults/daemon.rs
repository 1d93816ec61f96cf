//! One of the daemons: a process that is ended and started again, with one log for all these instances.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::freeze::Freeze;
use super::skew;

const BINARY: &str = env!("CARGO_BIN_EXE_certhookd");

/// What the daemon gives its requests in flight on SIGTERM, and how long it may take in all.
pub const GRACE: &str = "2s";
const STOP_LIMIT: Duration = Duration::from_secs(30);

pub struct Daemon {
    config: PathBuf,
    log: PathBuf,
    skew_s: i64,
    child: Mutex<Option<Child>>,
    complaints: parking_lot::Mutex<Vec<String>>,
}

impl Daemon {
    pub fn new(config: PathBuf, skew_s: i64) -> Self {
        Self {
            log: config.with_extension("log"),
            config,
            skew_s,
            child: Mutex::default(),
            complaints: parking_lot::Mutex::default(),
        }
    }

    /// Starts it. `armed`: it kills itself when it comes to that step of the protocol, in one of three cases.
    pub async fn start(&self, armed: Option<&str>) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
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
        *self.child.lock().await = Some(command.spawn().context("cannot start the daemon")?);
        Ok(())
    }

    /// SIGKILL, if it still runs.
    pub async fn kill(&self) -> Result<()> {
        let Some(mut child) = self.child.lock().await.take() else {
            return Ok(());
        };
        child.start_kill()?;
        self.judge(child.wait().await?, Some(Signal::SIGKILL));
        Ok(())
    }

    /// SIGTERM; it must end in time and say that all went well.
    pub async fn terminate(&self) -> Result<()> {
        let Some(mut child) = self.child.lock().await.take() else {
            return Ok(());
        };
        send(&child, Signal::SIGTERM)?;
        match timeout(STOP_LIMIT, child.wait()).await {
            Ok(status) => self.judge(status?, None),
            Err(_) => self.complain(format!("not ended {STOP_LIMIT:?} after SIGTERM")),
        }
        Ok(())
    }

    /// SIGSTOP. `receiver` is the port of what it sends to. `None` if it has ended.
    pub async fn freeze(&self, receiver: u16) -> Result<Option<Freeze>> {
        let child = self.child.lock().await;
        let pid = child.as_ref().and_then(Child::id);
        pid.map(|pid| Freeze::begin(Pid::from_raw(i32::try_from(pid)?), receiver))
            .transpose()
    }

    /// SIGCONT.
    pub async fn thaw(&self) -> Result<()> {
        match self.child.lock().await.as_ref() {
            Some(child) => send(child, Signal::SIGCONT),
            None => Ok(()),
        }
    }

    /// What it did that it must not: it ended by itself, with another status than 0, or not at all.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }

    fn judge(&self, status: ExitStatus, killed_by: Option<Signal>) {
        let is_asked_for = match killed_by {
            Some(signal) => status.signal() == Some(signal as i32),
            None => status.success(),
        };
        if !is_asked_for {
            self.complain(format!("ended with {status}"));
        }
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
