//! What is printed. A reader that has ended, as in `certhookd status | head`, is no failure; a full disk is.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use parking_lot::Mutex;

/// The first failure.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line, as `println!` does, without its panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::line(format_args!($($text)*)) };
}

pub(super) fn line(text: fmt::Arguments<'_>) {
    let written = writeln!(io::stdout().lock(), "{text}");
    if let Err(error) = written {
        FAILED.lock().get_or_insert(error);
    }
}

/// # Errors
/// Something could not be printed although somebody reads it.
pub(super) fn written() -> anyhow::Result<()> {
    match FAILED.lock().take() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("the output can't be written: {error}"))
        }
        _ => Ok(()),
    }
}
