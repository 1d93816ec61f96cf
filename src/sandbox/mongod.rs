//! One mongod process: started, killed, frozen and started again over the same files.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::cleanup::PID_FILE;

/// How long a mongod may take until it accepts connections.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The dynamic loader's exit code where a shared library is missing, and what to do then.
const LOADER_FAILED: i32 = 127;
const HINT: &str = "; install that library (on Debian: apt install libcurl4 libssl3)";

/// Below the range from which Linux takes the ports of outgoing connections, so that a killed mongod finds its own again.
const PORTS: std::ops::Range<u16> = 20_000..32_768;

/// A mongod, running or not. Dropping it leaves a running process to the cleanup.
#[derive(Debug)]
pub(super) struct Mongod {
    binary: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    port: u16,
    process: Mutex<Option<Child>>,
}

impl Mongod {
    /// Starts `binary` in `directory`, which it creates, on a free port of 127.0.0.1. [`Mongod::ready`] waits until it serves.
    pub(super) fn start(binary: &Path, directory: PathBuf, arguments: Vec<String>) -> Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let process = Mutex::new(None);
        let mongod = Self {
            binary: binary.to_owned(),
            arguments,
            directory,
            port: free_port()?,
            process,
        };
        mongod.spawn()?;
        Ok(mongod)
    }

    /// The port it listens on, the same after a restart.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again after [`Mongod::kill`]. Does nothing if it runs.
    pub(super) fn spawn(&self) -> Result<()> {
        let mut process = self.process.lock();
        if process.is_some() {
            return Ok(());
        }
        let stderr = File::create(self.directory.join("stderr")).context("cannot keep mongod's messages")?;
        let child = Command::new(&self.binary)
            .args([
                "--bind_ip",
                "127.0.0.1",
                "--nounixsocket",
                "--quiet",
                "--port",
                &self.port.to_string(),
            ])
            .arg("--dbpath")
            .arg(&self.directory)
            .arg("--logpath")
            .arg(self.directory.join("log"))
            .args(["--setParameter", "enableTestCommands=1"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            // Ctrl-C is for the process that started it, which still needs its database to finish.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        fs::write(self.directory.join(PID_FILE), child.id().to_string()).context("cannot note mongod's process id")?;
        *process = Some(child);
        Ok(())
    }

    /// Waits until it accepts connections. Fails with its last words if it ends instead.
    pub(super) async fn ready(&self) -> Result<()> {
        let limit = Instant::now() + START_LIMIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            if let Some(status) = self.ended()? {
                let hint = if status.code() == Some(LOADER_FAILED) { HINT } else { "" };
                bail!(
                    "mongod ended at its start ({status}): {}{hint}",
                    last_words(&self.directory)
                );
            }
            ensure!(
                Instant::now() < limit,
                "mongod took no connection within {START_LIMIT:?} of its start"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        match self.process.lock().as_mut() {
            Some(child) => child.try_wait().context("cannot ask for mongod's state"),
            None => Ok(Some(ExitStatus::from_raw(Signal::SIGKILL as i32))),
        }
    }

    /// SIGKILL, as a power cut would end it; returns when it has ended. Does nothing if it does not run.
    pub(super) fn kill(&self) -> Result<()> {
        let Some(mut child) = self.process.lock().take() else {
            return Ok(());
        };
        child.kill().context("cannot kill mongod")?;
        // The id goes before the process is reaped: from then on it may be another process's.
        fs::remove_file(self.directory.join(PID_FILE)).context("cannot forget mongod's process id")?;
        child.wait().context("cannot await mongod's end")?;
        Ok(())
    }

    /// Sends `signal`. Fails if it does not run.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid()?;
        signal::kill(pid, signal).with_context(|| format!("cannot send {signal} to mongod"))
    }

    /// SIGSTOP; returns when the last of its threads has stopped: until then one may still reply.
    pub(super) fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        waitid(Id::Pid(self.pid()?), WaitPidFlag::WSTOPPED).context("cannot wait for mongod to stop")?;
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        let process = self.process.lock();
        let child = process
            .as_ref()
            .with_context(|| format!("no mongod runs on port {} to signal", self.port))?;
        Ok(Pid::from_raw(
            i32::try_from(child.id()).context("a process id beyond what kill takes")?,
        ))
    }

    /// Collects the process after the cleanup killed it.
    pub(super) fn reap(&self) {
        if let Some(mut child) = self.process.lock().take()
            && let Err(error) = child.wait()
        {
            tracing::warn!(%error, port = self.port, "a mongod of the sandbox may still run");
        }
    }
}

fn free_port() -> Result<u16> {
    (0..1000)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no free port on 127.0.0.1 for mongod")
}

/// Why it ended, as far as it said so: on stderr before it opens its log (a missing library), else in the log.
fn last_words(directory: &Path) -> String {
    let read = |name| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let (stderr, log) = (read("stderr"), read("log"));
    let complaint = |line: &&str| line.contains(r#""s":"E""#) || line.contains(r#""s":"F""#);
    let words = stderr
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .or_else(|| log.lines().find(complaint));
    words.unwrap_or("it gave no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_binary_that_ends_at_once_is_an_error_and_no_endless_wait() {
        let directory = tempfile::tempdir().unwrap();
        let mongod = Mongod::start(Path::new("false"), directory.path().join("data"), Vec::new()).unwrap();
        let error = mongod.ready().await.unwrap_err().to_string();
        assert_eq!(error, "mongod ended at its start (exit status: 1): it gave no reason");
        mongod.kill().unwrap();
    }

    #[test]
    fn the_reason_is_a_line_on_stderr_or_the_first_complaint_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name, text| fs::write(directory.path().join(name), text).unwrap();
        write(
            "log",
            "{\"s\":\"I\"}\n{\"s\":\"E\",\"msg\":\"port taken\"}\n{\"s\":\"F\",\"msg\":\"aborting\"}\n",
        );
        assert_eq!(last_words(directory.path()), r#"{"s":"E","msg":"port taken"}"#);

        write(
            "stderr",
            "mongod: error while loading shared libraries: libcurl.so.4\n\n",
        );
        assert_eq!(
            last_words(directory.path()),
            "mongod: error while loading shared libraries: libcurl.so.4"
        );
    }
}
