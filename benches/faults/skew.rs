//! A wrong clock for a process: Debian's libfaketime, where it is installed.

use std::path::PathBuf;

use tokio::process::Command;

/// The library, if there is one.
pub fn library() -> Option<PathBuf> {
    let architectures = std::fs::read_dir("/usr/lib").ok()?;
    architectures
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.is_file())
}

/// Has the command see a clock that is wrong by that many seconds. What measures durations is right.
pub fn apply(command: &mut Command, seconds: i64) {
    let Some(library) = library().filter(|_| seconds != 0) else {
        return;
    };
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME", format!("{seconds:+}s"))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        // Its shared memory would outlive a killed process.
        .env("FAKETIME_DISABLE_SHM", "1");
}
