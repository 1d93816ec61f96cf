#!/usr/bin/env bash
# deb.sh [OPTION...]: packages the release build for Debian and prints the package's path. OPTIONs are cargo-deb's.
# Manual pages and completions come from the binary that is packaged, so they are of the same version.
set -euo pipefail
cd "$(dirname "$0")/.."
certhookd=${CARGO_TARGET_DIR:-target}/release/certhookd
[ -x "$certhookd" ] || { echo "deb.sh: no release build: run cargo build --release first" >&2; exit 2; }
rm -rf target/generated
"$certhookd" generate target/generated
cargo deb --no-build --quiet "$@"
