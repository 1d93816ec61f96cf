//! A `certhookd` of its own process: run to its end, or running, with its log.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Notify;

use super::LIMIT;

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

/// Whether the line tells of a scan that ended.
pub fn is_scan(line: &Value) -> bool {
    line["message"] == "scan finished"
}
