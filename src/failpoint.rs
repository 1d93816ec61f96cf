//! Steps of the protocol at which tests end the process, to show that no crash there loses anything.
//!
//! A step is armed by `FAILPOINTS=STEP=return` in the environment (the syntax of the crate `fail`). The crate's feature
//! `failpoints` is on for tests and benches alone, through `[dev-dependencies]`: elsewhere nothing of this is compiled.

use std::time::Duration;

use fail::FailScenario;

/// Arms the steps that the environment names; they stay armed while the returned value lives.
///
/// # Panics
/// The environment names them in another syntax, in a build for tests.
pub(crate) fn arm() -> Option<FailScenario<'static>> {
    fail::has_failpoints().then(FailScenario::setup)
}

/// `limit`, or the seconds that the environment sets in its place: `FAILPOINTS=STEP=return(SECONDS)`.
pub(crate) fn limit(step: &str, limit: Duration) -> Duration {
    let _ = step;
    fail::fail_point!(step, |seconds| {
        let seconds = seconds.and_then(|seconds| seconds.parse().ok());
        seconds.map_or(limit, Duration::from_secs)
    });
    limit
}

/// The protocol has come to `step`: waits there for the seconds that the environment sets, `FAILPOINTS=STEP=return(SECONDS)`. Unlike
/// the crate's `sleep` it leaves the thread to others.
pub(crate) async fn pause(step: &str) {
    let pause = limit(step, Duration::ZERO);
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// The protocol has come to `step`: ends the process by SIGKILL if it is armed.
pub(crate) fn reach(step: &str) {
    let _ = step;
    fail::fail_point!(step, |_| {
        // It does not come back.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    });
}
