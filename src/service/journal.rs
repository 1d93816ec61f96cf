//! Log events for journald, by its native protocol: the line a terminal would show as MESSAGE, each field beside it.

use std::fmt::Debug;

use libsystemd::logging::{Priority, journal_send};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::one_line::one_line;
use super::telemetry::write_field;

/// Sends every event to the journal. An `event_id` is found there as `EVENT_ID=`, and so on.
pub(super) struct Journal;

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = Entry::of(event);
        // If the journal does not listen, that can not be logged either.
        let _ = journal_send(
            priority(event.metadata().level()),
            &entry.message,
            entry.fields.iter().map(|(n, v)| (n, v)),
        );
    }
}

/// The journal's name for a level.
fn priority(level: &Level) -> Priority {
    match *level {
        Level::ERROR => Priority::Error,
        Level::WARN => Priority::Warning,
        Level::INFO => Priority::Info,
        Level::DEBUG | Level::TRACE => Priority::Debug,
    }
}

#[derive(Default)]
struct Entry {
    message: String,
    fields: Vec<(String, String)>,
}

impl Entry {
    fn of(event: &Event<'_>) -> Self {
        let mut entry = Self::default();
        entry.put("SYSLOG_IDENTIFIER", "certhookd");
        entry.put("TARGET", event.metadata().target());
        event.record(&mut entry);
        entry
    }

    fn put(&mut self, name: &str, value: &str) {
        self.fields
            .push((name.replace('.', "_").to_ascii_uppercase(), value.to_owned()));
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, &value, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, value, &format!("{value:?}"));
    }
}

impl Entry {
    fn record(&mut self, field: &Field, value: &dyn Debug, plain: &str) {
        // Writing to a string can't fail.
        let _ = write_field(&mut self.message, field.name(), value);
        if field.name() != "message" {
            self.put(field.name(), &one_line(plain));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tracing_subscriber::layer::SubscriberExt;

    struct Keep(Arc<Mutex<Entry>>);

    impl<S: Subscriber> Layer<S> for Keep {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock() = Entry::of(event);
        }
    }

    fn entry(emit: impl FnOnce()) -> Entry {
        let kept = Arc::new(Mutex::new(Entry::default()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Keep(Arc::clone(&kept))), emit);
        std::mem::take(&mut kept.lock())
    }

    #[test]
    fn the_message_reads_like_a_line_of_a_terminal_and_the_fields_stand_beside_it() {
        let entry = entry(|| {
            let reason = "connection\nrefused";
            tracing::warn!(event_id = %"certificate_expired_1", status = 503, duration_ms = 12_u64, reason, "attempt failed");
        });
        assert_eq!(
            entry.message,
            r#"attempt failed event_id=certificate_expired_1 status=503 duration_ms=12 reason="connection\nrefused""#
        );
        for (name, value) in [
            ("SYSLOG_IDENTIFIER", "certhookd"),
            ("TARGET", "certhookd::service::journal::tests"),
            ("EVENT_ID", "certificate_expired_1"),
            ("STATUS", "503"),
            ("DURATION_MS", "12"),
            ("REASON", r"connection\nrefused"),
        ] {
            assert!(
                entry.fields.contains(&(name.into(), value.into())),
                "{name} in {:?}",
                entry.fields
            );
        }
    }

    #[test]
    fn levels_have_the_journals_usual_numbers() {
        let number = |level| u8::from(priority(&level));
        assert_eq!(
            [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].map(number),
            [3, 4, 6, 7]
        );
    }
}
