//! What the system says of a daemon.

use std::pin::pin;

use tokio::sync::watch;

use crate::fixture::Daemon;

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

    /// The most files that it had open as a request arrived at one of two receivers, until there are enough. None is opened
    /// for an endpoint without that a request arrives over it.
    pub async fn most_files(&self, arrivals: [watch::Receiver<usize>; 2], enough: impl Future<Output = ()>) -> usize {
        let [mut one, mut other] = arrivals;
        let mut enough = pin!(enough);
        let mut most = 0;
        loop {
            tokio::select! {
                () = &mut enough => return most,
                arrived = one.changed() => arrived.unwrap(),
                arrived = other.changed() => arrived.unwrap(),
            }
            most = most.max(self.files());
        }
    }
}
