//! Where log lines go and what they look like: one line each, whatever their values hold.

use std::fmt::{self, Debug, Write};
use std::io::{self, IsTerminal};
use std::os::unix::net::UnixDatagram;

use anyhow::Context;
use libsystemd::logging::{SD_JOURNAL_SOCK_PATH, connected_to_journal};
use tracing::Subscriber;
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use super::journal::Journal;
use super::one_line::OneLine;

/// The environment variable that says what is logged, in the notation of [`EnvFilter`].
pub const FILTER_VARIABLE: &str = "CERTHOOKD_LOG";

/// What is logged by default: this daemon's story, and of its libraries only what went wrong.
pub const DEFAULT_FILTER: &str = "certhookd=info,warn,rustls_platform_verifier=off";

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `journald` where stderr is connected to the journal, else `human`.
    #[default]
    Auto,
    /// Lines for people on stderr, in colours on a terminal.
    Human,
    /// One JSON object a line on stderr.
    Json,
    /// The journal's own protocol, every field an indexed one.
    Journald,
}

/// Starts logging, for the whole process. Without a journal at hand `Journald` becomes `Human`, with a warning.
///
/// # Errors
/// When `filter` makes no sense, or when the process logs already.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter).with_context(|| {
        format!("{FILTER_VARIABLE}: expected a filter such as {DEFAULT_FILTER:?}, found {filter:?}")
    })?;
    let (layer, missing) = layer(format);
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    if let Some(error) = missing {
        tracing::warn!(%error, "no journal at {SD_JOURNAL_SOCK_PATH}: logging to stderr");
    }
    Ok(())
}

/// The layer of that format, and why the journal is not used although it was asked for.
fn layer(format: LogFormat) -> (Box<dyn Layer<Registry> + Send + Sync>, Option<io::Error>) {
    let human = || human(io::stderr, io::stderr().is_terminal()).boxed();
    match format {
        LogFormat::Auto if connected_to_journal() => layer(LogFormat::Journald),
        LogFormat::Auto | LogFormat::Human => (human(), None),
        LogFormat::Json => (json(io::stderr).boxed(), None),
        LogFormat::Journald => match UnixDatagram::unbound().and_then(|socket| socket.connect(SD_JOURNAL_SOCK_PATH)) {
            Ok(()) => (Journal.boxed(), None),
            Err(error) => (human(), Some(error)),
        },
    }
}

fn human<S, W>(writer: W, terminal: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .fmt_fields(format::debug_fn(|line, field, value| {
            write_field(line, field.name(), value)
        }))
        .with_writer(writer);
    // Left alone, it asks NO_COLOR.
    if terminal { layer } else { layer.with_ansi(false) }
}

fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(writer)
}

/// Adds a field to a line: the message as it is, any other as ` name=value`. A library's `log.…` fields, which repeat
/// where its line was written, are left out.
pub(super) fn write_field(line: &mut dyn Write, name: &str, value: &dyn Debug) -> fmt::Result {
    match name {
        "message" => write!(OneLine(line), "{value:?}"),
        name if name.starts_with("log.") => Ok(()),
        name => write!(OneLine(line), " {name}={value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a layer prints of a line with hostile values.
    fn printed(
        layer: impl FnOnce(Box<dyn Fn() -> Buffer + Send + Sync>) -> Box<dyn Layer<Registry> + Send + Sync>,
    ) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::registry().with(layer(Box::new(move || writer.clone())));
        tracing::subscriber::with_default(subscriber, || {
            let hostile = "Acme\n\u{1b}[2Jforged";
            tracing::info!(endpoint = %hostile, status = 200, "delivered to {hostile}");
        });
        String::from_utf8(std::mem::take(&mut buffer.0.lock())).unwrap()
    }

    #[test]
    fn hostile_values_forge_no_line_and_reach_no_terminal() {
        let line = printed(|writer| human(writer, false).boxed());
        let safe = r"Acme\n\u{1b}[2Jforged";
        assert!(
            line.ends_with(&format!("delivered to {safe} endpoint={safe} status=200\n")),
            "{line}"
        );
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }

    #[test]
    fn json_has_the_fields_at_the_top() {
        let line = printed(|writer| json(writer).boxed());
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["endpoint"], "Acme\n\u{1b}[2Jforged");
        assert_eq!(object["status"], 200);
    }

    #[test]
    fn a_line_of_a_library_is_told_without_its_place() {
        let mut line = String::new();
        for (name, value) in [("message", "closed"), ("log.target", "rustls"), ("peer", "a")] {
            write_field(&mut line, name, &format_args!("{value}")).unwrap();
        }
        assert_eq!(line, "closed peer=a");
    }

    #[test]
    fn without_a_journal_stderr_is_used_and_the_reason_kept() {
        let (_, missing) = layer(LogFormat::Journald);
        assert_eq!(missing.is_none(), std::fs::exists(SD_JOURNAL_SOCK_PATH).unwrap());
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_named() {
        let error = init(LogFormat::Human, "certhookd=loud").unwrap_err().to_string();
        assert!(
            error.contains(FILTER_VARIABLE) && error.contains("certhookd=loud"),
            "{error}"
        );
    }
}
