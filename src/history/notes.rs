//! What is known beside the deliveries, and why there are none where there are none.

mod award;
mod expiry;

use bson::{DateTime, RawBsonRef, RawDocument};

use super::Note;
use super::documents::Stored;
use super::name::Name;
use super::next::instant;
use crate::config::Config;
use crate::model::{EndpointKey, EventId, EventType, id_part};
use crate::platform::Directory;
use crate::service::one_line;
use crate::store::{Result, Store};

/// The code of the note that nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// Endpoints that a note names, at most.
const MOST_NAMED: usize = 10;

/// What the notes are made of.
pub(super) struct Known<'a> {
    pub(super) config: &'a Config,
    pub(super) directory: &'a Directory,
    pub(super) at: DateTime,
    pub(super) read: &'a Stored,
    /// What is noted of events that were rejected, or that can't be marked.
    pub(super) noted: &'a [Note],
}

fn note(code: &'static str, text: impl Into<String>) -> Note {
    Note {
        code,
        text: text.into(),
    }
}

pub(super) fn unknown(why: &str) -> Note {
    note(UNKNOWN, why)
}

pub(super) fn missing() -> Note {
    note(
        "certificate_missing",
        "the certificate is not there any more: what the outbox still holds of it follows",
    )
}

pub(super) fn no_instance() -> Note {
    note(
        "no_instance",
        "no instance of certhookd is alive: nothing is sent until one is started",
    )
}

/// A delivery was asked for, and the event went to other endpoints alone.
pub(super) fn of_endpoint(name: &Name, read: &Stored, directory: &Directory) -> Option<Note> {
    let Name::Event {
        event,
        endpoint: Some(wanted),
    } = name
    else {
        return None;
    };
    if read.deliveries.is_empty() || read.deliveries.iter().any(|stored| stored.endpoint == *wanted) {
        return None;
    }
    let key = EndpointKey::from_stored(wanted);
    let is_known = directory.knows(&key) || key.is_own();
    let why = match is_known {
        true => "it was off or not subscribed then, or it was added later",
        false => "no such endpoint is configured",
    };
    Some(note(
        "not_for_endpoint",
        format!(
            "{event} was not for {}: {why}; to whom it went follows",
            one_line(wanted)
        ),
    ))
}

/// What its document says of a certificate's events.
pub(super) async fn of_certificate(store: &Store, document: &RawDocument, known: &Known<'_>) -> Result<Vec<Note>> {
    let mut notes = Vec::new();
    if document.get_bool("disabled").unwrap_or(false) {
        notes.push(note(
            "disabled",
            "the certificate is revoked (disabled): its events are sent all the same",
        ));
    }
    let organization = organization(document);
    match &organization {
        None => notes.push(note(
            "no_organization",
            "`_ownerId` is missing: it can't be an event, and a scan records it as rejected",
        )),
        Some(id) if !known.directory.knows_organization(id) => notes.push(note(
            "unconfigured",
            format!("organization {id} has no configuration document: nothing is sent to anybody"),
        )),
        Some(_) => {}
    }
    notes.extend(award::note(store, document, organization.as_deref(), known).await?);
    notes.extend(expiry::notes(document, organization.as_deref(), known));
    Ok(notes)
}

pub(super) fn organization(document: &RawDocument) -> Option<String> {
    match document.get("_ownerId") {
        Ok(Some(id)) if !matches!(id, RawBsonRef::Null | RawBsonRef::Undefined) => Some(id_part(id)),
        _ => None,
    }
}

/// Whether the outbox tells what became of the event of that instant.
fn is_kept(document: &RawDocument, event_type: EventType, at: DateTime, known: &Known<'_>) -> bool {
    let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
    let event = EventId::derive(event_type, id, at);
    let was_sent = known
        .read
        .deliveries
        .iter()
        .any(|stored| stored.event == event.as_str());
    was_sent || known.noted.iter().any(|note| note.text.starts_with(event.as_str()))
}

/// Which endpoints would want such an event now.
fn wanting(organization: Option<&str>, event_type: EventType, known: &Known<'_>) -> String {
    let Some(organization) = organization.filter(|id| known.directory.knows_organization(id)) else {
        return String::new();
    };
    let keys = known.directory.wanting(organization, event_type);
    let mut named: Vec<_> = keys.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if keys.len() > MOST_NAMED {
        named.push(format!("{} more", keys.len() - MOST_NAMED));
    }
    match named.is_empty() {
        true => format!("; no endpoint wants {event_type} now"),
        false => format!("; now {event_type} would go to {}", named.join(", ")),
    }
}
