//! Which mongod the sandbox runs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::fetch;

/// Names the mongod to run, before any other.
const VARIABLE: &str = "CERTHOOKD_MONGOD";

/// The mongod to run: `CERTHOOKD_MONGOD`, else the one on PATH, else the cached one, else one fetched into the cache.
///
/// Blocks, for as long as a download of 42 MB takes where nothing else is found. Fails with what to do about it.
pub fn mongod_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return named(path.into());
    }
    if let Some(path) = on_path(&env::var_os("PATH").unwrap_or_default()) {
        return Ok(path);
    }
    fetch::cached_or_fetched(&cache_directory()?)
}

fn named(path: PathBuf) -> Result<PathBuf> {
    ensure!(
        path.is_file(),
        "{VARIABLE} is {}: no such file; set it to a mongod 6.0+ or unset it",
        path.display()
    );
    Ok(path)
}

fn on_path(path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|directory| directory.join("mongod"))
        .find(|file| file.is_file())
}

/// `$XDG_CACHE_HOME/certhookd`, or `~/.cache/certhookd`.
fn cache_directory() -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join(Path::new("certhookd")))
        .with_context(|| {
            format!("no place to keep a mongod: set HOME or XDG_CACHE_HOME, or {VARIABLE} to a mongod 6.0+")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mongod_on_the_path_is_taken() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(empty.path().join("mongod")).unwrap();
        let path = env::join_paths([empty.path(), full.path()]).unwrap();
        assert_eq!(on_path(&path), None, "a directory is no mongod");

        let mongod = full.path().join("mongod");
        std::fs::write(&mongod, "").unwrap();
        assert_eq!(on_path(&path), Some(mongod));
    }

    #[test]
    fn a_named_mongod_that_is_not_there_is_an_error_and_never_replaced() {
        let error = named("/nowhere/mongod".into()).unwrap_err().to_string();
        assert_eq!(
            error,
            "CERTHOOKD_MONGOD is /nowhere/mongod: no such file; set it to a mongod 6.0+ or unset it"
        );
    }
}
