//! A frozen process, and the connections that it had open.

use std::collections::HashSet;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// A process while it is frozen, and what it left open.
#[derive(Clone, Debug)]
pub struct Freeze {
    /// Its ports of connections to the receiver.
    pub ports: HashSet<u16>,
    pub from: Instant,
    /// `None`: until now.
    pub until: Option<Instant>,
}

impl Freeze {
    /// Stops all threads of the process. It has connections to `receiver`, a port of this machine.
    pub fn begin(pid: Pid, receiver: u16) -> Result<Self> {
        let from = Instant::now();
        kill(pid, Signal::SIGSTOP).context("cannot send SIGSTOP")?;
        waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED).context("cannot wait for the process to stop")?;
        Ok(Self {
            ports: ports(pid, receiver)?,
            from,
            until: None,
        })
    }
}

/// The local ports of the connections of a process to `remote`, an IPv4 port of this machine.
fn ports(pid: Pid, remote: u16) -> Result<HashSet<u16>> {
    let open = sockets(pid)?;
    let connections = fs::read_to_string("/proc/net/tcp").context("cannot read /proc/net/tcp")?;
    let port = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.rsplit_once(':')?.1, 16).ok();
        let is_wanted = port(fields.get(2)?)? == remote && open.contains(*fields.get(9)?);
        is_wanted.then(|| port(fields[1])).flatten()
    };
    Ok(connections.lines().skip(1).filter_map(port).collect())
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: Pid) -> Result<HashSet<String>> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).context("cannot list the process's files")?;
    let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let inode = |link: std::path::PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    Ok(links.filter_map(inode).collect())
}
