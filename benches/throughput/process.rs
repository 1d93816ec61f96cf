//! A process that is measured: the daemon, or a baseline. Both say `ready` on stderr and start to work on SIGUSR1.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

/// How long a process may take to say something.
const LIMIT: Duration = Duration::from_secs(1_800);

/// Nothing tells of a file that is opened.
const COUNT_EVERY: Duration = Duration::from_millis(20);

/// Clock ticks a second in `/proc/PID/stat`: fixed in Linux's interface on the common architectures (`USER_HZ`, proc(5)).
const TICKS: f64 = 100.0;

/// A running process and what it said.
pub struct Process {
    child: Child,
    pid: Pid,
    log: Arc<Log>,
    /// From its start to its readiness.
    pub ready_after: Duration,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Notify,
}

impl Process {
    /// Starts it and waits until it is ready.
    pub async fn start(mut command: Command) -> Result<Self> {
        let began = Instant::now();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot start a process to measure")?;
        let pid = Pid::from_raw(i32::try_from(child.id().context("it ended at once")?)?);
        let stderr = child.stderr.take().context("its stderr is missing")?;
        let log = Arc::<Log>::default();
        tokio::spawn(Arc::clone(&log).follow(BufReader::new(stderr)));
        let mut process = Self {
            child,
            pid,
            log,
            ready_after: Duration::ZERO,
        };
        process.line("\"ready\"").await?;
        process.ready_after = began.elapsed();
        Ok(process)
    }

    /// Has it start to work.
    pub fn go(&self) -> Result<()> {
        kill(self.pid, Signal::SIGUSR1).context("it ended before its work began")
    }

    /// Waits for a line that holds `text`.
    pub async fn line(&mut self, text: &str) -> Result<()> {
        self.nth_line(text, 1).await
    }

    /// Waits until `n` lines hold `text`.
    pub async fn nth_line(&mut self, text: &str, n: usize) -> Result<()> {
        tokio::select! {
            found = tokio::time::timeout(LIMIT, self.log.find(text, n)) => found.with_context(|| format!("no line with {text} came")),
            ended = self.child.wait() => bail!("it ended ({}) before {text}:\n{}", ended?, self.log.lines.lock().join("\n")),
        }
    }

    /// CPU seconds used so far, all threads together.
    pub fn cpu(&self) -> Result<f64> {
        cpu(self.pid)
    }

    /// Resident memory now (`VmRSS`) or at its highest (`VmHWM`), in MB.
    pub fn memory(&self, which: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix(which));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        let kilobytes: f64 = kilobytes.context("/proc/PID/status names no memory")?.parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    }

    /// Counts its open files again and again; returns the most of them once `until` is done.
    pub async fn most_files<T>(&self, until: impl Future<Output = T>) -> Result<(usize, T)> {
        let directory = format!("/proc/{}/fd", self.pid);
        tokio::pin!(until);
        let mut most = 0;
        loop {
            most = most.max(std::fs::read_dir(&directory)?.count());
            if let Ok(done) = tokio::time::timeout(COUNT_EVERY, &mut until).await {
                return Ok((most, done));
            }
        }
    }

    /// Ends it by SIGTERM and returns the lines that it wrote.
    pub async fn stop(mut self) -> Result<Vec<String>> {
        kill(self.pid, Signal::SIGTERM).context("it ended before it was asked to")?;
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        ended.context("it did not end")??;
        Ok(std::mem::take(&mut *self.log.lines.lock()))
    }
}

impl Log {
    async fn follow(self: Arc<Self>, stderr: BufReader<tokio::process::ChildStderr>) {
        let mut lines = stderr.lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.lines.lock().push(line);
            self.grown.notify_waiters();
        }
    }

    async fn find(&self, text: &str, n: usize) {
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            if self.lines.lock().iter().filter(|line| line.contains(text)).count() >= n {
                return;
            }
            grown.await;
        }
    }
}

/// CPU seconds that a process used so far, all threads together.
pub fn cpu(pid: Pid) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
    let ticks = |place: usize| -> Result<f64> {
        let field = fields.split_whitespace().nth(place);
        Ok(field.context("/proc/PID/stat is too short")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// The size of the binary, in MB.
pub fn size(binary: &str) -> Result<f64> {
    let bytes = std::fs::metadata(binary)?.len();
    ensure!(bytes > 0, "{binary} is empty");
    Ok(bytes as f64 / 1e6)
}
