//! Why there is no expiry, or none yet.

use bson::{DateTime, RawBsonRef, RawDocument};

use super::{Known, Note, instant, is_kept, note, wanting};
use crate::model::EventType;
use crate::platform::badge_user;
use crate::service::one_line;
use crate::source::Schedule;

const EXPIRED: EventType = EventType::CertificateExpired;

/// Nothing, if the outbox tells of it.
pub(super) fn notes(document: &RawDocument, organization: Option<&str>, known: &Known<'_>) -> Vec<Note> {
    let is_marked = match document.get("expiryReminderSent") {
        Ok(None | Some(RawBsonRef::Null | RawBsonRef::Undefined)) => false,
        Ok(Some(RawBsonRef::Boolean(marked))) => marked,
        _ => {
            let text = "`expiryReminderSent` is not a boolean: the next scan after its expiry records it as rejected";
            return vec![note("odd_flag", text)];
        }
    };
    let at = match document.get("expires") {
        Ok(None | Some(RawBsonRef::Null | RawBsonRef::Undefined)) => {
            return vec![note("never_expires", "it never expires")];
        }
        Ok(Some(RawBsonRef::DateTime(at))) => at,
        _ if is_marked => {
            return vec![note(
                "odd_expires",
                "`expires` is not a date, and it is marked: it can't be an event",
            )];
        }
        _ => {
            let text = "`expires` is not a date: the next scan records it as rejected";
            return vec![note("odd_expires", text)];
        }
    };
    if at > known.at {
        return to_come(at, is_marked, known);
    }
    if is_kept(document, EXPIRED, at, known) {
        return Vec::new();
    }
    match is_marked {
        true => vec![marked(at, organization, known)],
        false => vec![unmarked(document, at, organization, known)],
    }
}

fn to_come(at: DateTime, is_marked: bool, known: &Known<'_>) -> Vec<Note> {
    let (mut notes, when) = (Vec::new(), instant(at));
    let mut stored = known.read.deliveries.iter();
    if stored.any(|stored| stored.event_type == EXPIRED.as_str()) {
        let text = format!("it was renewed after an expiry that was told of: it expires at {when}");
        notes.push(note("renewed", text));
    }
    notes.push(match is_marked {
        true => {
            let text = format!(
                "it expires at {when} and is marked already (expiryReminderSent): that expiry is not told of unless the platform takes the mark away"
            );
            note("marked_before_expiry", text)
        }
        false => note("not_expired", format!("it has not expired yet: its expiry is told of at {when}")),
    });
    notes
}

fn marked(at: DateTime, organization: Option<&str>, known: &Known<'_>) -> Note {
    let text = format!(
        "it expired at {} and is marked (expiryReminderSent), and nothing is kept of that: no endpoint wanted it then, the platform marked it \
         itself, or its deliveries ended longer ago than delivery.retention{}",
        instant(at),
        wanting(organization, EXPIRED, known)
    );
    note("marked_not_sent", text)
}

fn unmarked(document: &RawDocument, at: DateTime, organization: Option<&str>, known: &Known<'_>) -> Note {
    let (scan, when) = (&known.config.scan, instant(at));
    if let Some(before) = scan.not_before.filter(|before| at < *before) {
        let before = instant(before);
        let text = format!("it expired at {when}, before scan.not_before ({before}): it is left alone");
        return note("before_not_before", text);
    }
    if let Err(unfit) = badge_user::expired(document, known.at) {
        let reason = one_line(unfit.reason);
        let text = format!("it expired at {when}, and the next scan records it as rejected: {reason}");
        return note("unfit", text);
    }
    let schedule = Schedule {
        cron: scan.schedule.clone(),
        zone: scan.timezone,
    };
    let next = schedule
        .next_after(known.at)
        .map(|next| format!(", at {} at the latest", instant(next)));
    let (next, wanting) = (next.unwrap_or_default(), wanting(organization, EXPIRED, known));
    let text = format!("it expired at {when} and is not marked: the next scan finds it{next}{wanting}");
    note("next_scan", text)
}
