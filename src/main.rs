//! certhookd: see the library's documentation, and README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    certhookd::cli::main()
}
