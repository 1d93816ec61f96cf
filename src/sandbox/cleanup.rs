//! Ends a sandbox with the process that started it, however that ends: dropped, returned from main, panicked or SIGKILLed.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Where a process that the cleanup must end leaves its id, in a folder of its own below the sandbox's directory.
pub(super) const PID_FILE: &str = "pid";

/// `read` returns when the pipe closes, and only the process that started it has its other end. The second `rm` is for a file that a
/// process created between the kill and its death.
const SCRIPT: &str = r#"
read -r _
for pid in "$1"/*/pid; do kill -KILL "$(cat "$pid")"; done 2>/dev/null
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

/// A temporary directory and a shell that waits for this value to go, then kills what runs there and removes it all.
///
/// A shell, because it must outlive that process: statics are not dropped, and nothing of a SIGKILLed process runs.
#[derive(Debug)]
pub(super) struct Cleanup {
    directory: PathBuf,
    shell: Child,
}

impl Cleanup {
    /// Makes the directory, below the system's temporary one, and starts the shell.
    pub(super) fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("certhookd-sandbox-").tempdir();
        let directory = directory.context("cannot make a directory for the sandbox")?;
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "cleanup"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C ends the process that started it, and that ends this.
            .process_group(0)
            .spawn()
            .context("cannot start sh, which cleans up after the sandbox")?;
        Ok(Self {
            directory: directory.keep(),
            shell,
        })
    }

    /// The directory that goes when this value goes.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Cleanup {
    /// Waits until everything is removed.
    fn drop(&mut self) {
        // `wait` closes the pipe first.
        if let Err(error) = self.shell.wait() {
            report(&self.directory, &error);
        }
    }
}

fn report(directory: &Path, error: &io::Error) {
    tracing::warn!(%error, directory = %directory.display(), "the sandbox may not be removed: remove its directory by hand");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn kills_what_left_its_id_and_removes_everything() {
        let cleanup = Cleanup::start().unwrap();
        let directory = cleanup.directory().to_owned();
        let mut process = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::create_dir(directory.join("0")).unwrap();
        fs::create_dir(directory.join("1")).unwrap();
        fs::write(directory.join("1").join(PID_FILE), process.id().to_string()).unwrap();

        drop(cleanup);
        assert!(!directory.exists());
        assert_eq!(process.wait().unwrap().signal(), Some(9));
    }
}
