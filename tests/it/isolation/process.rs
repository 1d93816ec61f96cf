//! What the system says of a daemon.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bed::Daemon;

/// `/proc/PID` of a daemon.
pub struct Process(String);

impl Process {
    pub fn of(daemon: &Daemon) -> Self {
        Self(format!("/proc/{}", daemon.pid()))
    }

    /// `VmRSS` or `VmHWM`, its highest, in MB.
    pub fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("{}/status", self.0)).unwrap();
        let line = status.lines().find(|line| line.starts_with(which)).unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1024 / 1_000_000
    }

    fn files(&self) -> usize {
        std::fs::read_dir(format!("{}/fd", self.0)).unwrap().count()
    }

    /// Counts its open files again and again.
    pub fn most_files(self) -> MostFiles {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let counting = tokio::spawn(async move {
            let mut most = 0;
            while !stopped.is_cancelled() {
                most = most.max(self.files());
                // Nothing tells of a file that is opened.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            most
        });
        MostFiles { stop, counting }
    }
}

/// A count that goes on.
pub struct MostFiles {
    stop: CancellationToken,
    counting: JoinHandle<usize>,
}

impl MostFiles {
    /// The most that were open at once.
    pub async fn finish(self) -> usize {
        self.stop.cancel();
        self.counting.await.unwrap()
    }
}
