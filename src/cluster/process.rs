//! Whether the process of an instance on this machine has ended.

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

/// Where a pid means the same process: this machine and this PID namespace, as a hash, because a machine's id is a secret.
/// `None` where the machine has no id.
pub(super) fn machine_id(host: &str) -> Option<String> {
    let id = std::fs::read("/etc/machine-id").ok().filter(|id| !id.is_empty())?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let hash = Sha256::new()
        .chain_update(id)
        .chain_update(host)
        .chain_update(namespace.as_os_str().as_encoded_bytes());
    Some(hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether there is surely no process of that pid: one that may not be signalled is there.
pub(super) fn has_ended(pid: i64) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_waited_for_has_ended_and_one_that_runs_has_not() {
        assert!(!has_ended(i64::from(std::process::id())));
        assert!(!has_ended(1), "it may not be signalled by everybody, but it is there");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i64::from(child.id());
        child.wait().unwrap();
        assert!(has_ended(pid));
    }
}
