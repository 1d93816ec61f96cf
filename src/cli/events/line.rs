//! A change of a delivery as one line.

use anstyle::{AnsiColor, Style};
use bson::DateTime;
use chrono::{SecondsFormat, Utc};

use crate::outbox::Change;
use crate::service::one_line;

/// Over the columns of [`text`]. What is looked at comes first, what is copied from comes last.
pub(super) const HEADER: &str = "time (UTC)    state      event      attempt  response or reason                endpoint                                           webhook-id";

/// For people. Control characters are escaped: a reason may hold a receiver's text.
pub(super) fn text(change: &Change) -> String {
    let style = style(change);
    let attempt = match change.attempt {
        0 => String::new(),
        attempt => attempt.to_string(),
    };
    let event = change.event_type.strip_prefix("certificate_");
    format!(
        "{}  {style}{:<9}{style:#}  {:<9}  {attempt:>7}  {:<32}  {:<49}  {}",
        instant(change.at).format("%H:%M:%S%.3f"),
        one_line(&change.state),
        one_line(event.unwrap_or(&change.event_type)),
        one_line(response(change)),
        one_line(endpoint(change)),
        one_line(&change.webhook_id),
    )
}

/// For programs.
pub(super) fn json(change: &Change) -> serde_json::Value {
    serde_json::json!({
        "at": instant(change.at).to_rfc3339_opts(SecondsFormat::Millis, true),
        "state": change.state,
        "event_type": change.event_type,
        "organization": change.organization,
        "endpoint": change.endpoint,
        "attempt": change.attempt,
        "status": change.status,
        "reason": change.reason,
        "webhook_id": change.webhook_id,
    })
}

fn endpoint(change: &Change) -> String {
    match change.organization.as_str() {
        "" => String::new(),
        organization => format!("{organization}/{}", change.endpoint),
    }
}

fn response(change: &Change) -> String {
    match (&change.reason, change.status) {
        (Some(reason), _) => reason.clone(),
        (None, Some(status)) => format!("status {status}"),
        (None, None) => String::new(),
    }
}

fn style(change: &Change) -> Style {
    let colour = |colour: AnsiColor| colour.on_default();
    match change.state.as_str() {
        "delivered" => colour(AnsiColor::Green),
        "dead" | "rejected" => colour(AnsiColor::Red).bold(),
        "cancelled" => colour(AnsiColor::Yellow),
        "pending" if change.attempt > 0 => colour(AnsiColor::Yellow),
        _ => Style::new(),
    }
}

fn instant(at: DateTime) -> chrono::DateTime<Utc> {
    chrono::DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        Change {
            at: DateTime::from_millis(1_764_239_400_000),
            state: "dead".into(),
            event_type: "certificate_expired".into(),
            organization: "674700000000000000000003".into(),
            endpoint: "674700000000000000000004".into(),
            attempt: 100,
            status: Some(503),
            reason: Some("100 attempts failed: status 503".into()),
            webhook_id: "certificate_expired_674700000000000000000001_1764239400000".into(),
        }
    }

    #[test]
    fn a_line_is_aligned_with_its_header() {
        let line = anstream::adapter::strip_str(&text(&change())).to_string();
        for (column, value) in [
            ("time", "10:30:00.000"),
            ("state", "dead"),
            ("event", "expired"),
            ("attempt", "    100"),
            ("response", "100 attempts failed: status 503"),
            ("endpoint", "674700000000000000000003/"),
            ("webhook-id", "certificate_expired_"),
        ] {
            let place = HEADER.find(column).unwrap();
            assert!(line[place..].starts_with(value), "{column} in\n{HEADER}\n{line}");
        }
    }

    #[test]
    fn a_hostile_reason_stays_on_its_line() {
        let change = Change {
            reason: Some("\u{1b}[2J\nforged \u{9b}31m".into()),
            ..change()
        };
        let line = anstream::adapter::strip_str(&text(&change)).to_string();
        assert!(line.contains(r"\u{1b}[2J\nforged \u{9b}31m"), "{line}");
    }
}
