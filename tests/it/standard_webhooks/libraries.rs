//! The official libraries at the versions that tests/data/interop pins, installed once under target/.

mod nodejs;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use nodejs::Nodejs;

const PYTHON: &str = "install Python 3.9 or newer with pip (Debian: apt install python3 python3-pip)";

/// A file of tests/data/interop.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/interop")
        .join(name)
}

/// `node`, in a folder where scripts find the library.
pub(crate) fn node() -> Command {
    let nodejs = Nodejs::present();
    let home = installed("package-lock.json", "node_modules", |work| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(data(file), work.join(file)).unwrap();
        }
        let mut npm = nodejs.npm();
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(work);
        succeed(npm, nodejs::OTHERWISE);
    });
    let mut node = nodejs.node();
    node.current_dir(home);
    node
}

/// `python3`, with the library on its path, in the same kind of folder.
pub(crate) fn python() -> Command {
    python_with("requirements.txt")
}

/// `python3`, with what `pins` names on its path.
pub(crate) fn python_with(pins: &str) -> Command {
    let home = installed_by_pip(pins, "site");
    let mut python = Command::new("python3");
    python
        .env("PYTHONPATH", home.join("site"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(home);
    python
}

/// The folder in whose `target` the packages of `pins` are, each with its checksum.
fn installed_by_pip(pins: &str, target: &str) -> PathBuf {
    installed(pins, target, |work| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args(["--target", target, "--requirement"])
            .arg(data(pins))
            .current_dir(work);
        succeed(pip, PYTHON);
    })
}

/// The folder that holds `result`, as `install` makes it in a folder of its own from the versions that `pins` names.
///
/// Safe against other threads and processes: one installs, the others wait, and the result appears whole.
fn installed(pins: &str, result: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let hash = Sha256::digest(fs::read(data(pins)).unwrap());
    let version: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-{version}"));
    fs::create_dir_all(&home).unwrap();
    let lock = File::open(&home).unwrap();
    lock.lock().unwrap();
    if !home.join(result).exists() {
        let work = tempfile::tempdir_in(&home).unwrap();
        install(work.path());
        fs::rename(work.path().join(result), home.join(result)).unwrap();
    }
    home
}

fn succeed(mut command: Command, otherwise: &str) {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{program} failed with {}: {}; if it is not usable here, {otherwise}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("this test needs {program} ({error}): {otherwise}"),
    }
}
