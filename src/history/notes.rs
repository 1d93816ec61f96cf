//! What is known beside the deliveries, and why there are none where there are none.

use bson::{DateTime, RawBsonRef, RawDocument, doc};

use super::Note;
use super::documents::Read;
use super::name::Name;
use super::next::instant;
use crate::config::Config;
use crate::model::{EndpointKey, EventId, EventType, id_part};
use crate::platform::{Directory, badge_user};
use crate::service::one_line;
use crate::source::Schedule;
use crate::store::{Result, Store};

/// The code of the note that nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// Of endpoints that are named in a note, at most.
const NAMED: usize = 10;

/// What the notes are made of.
pub(super) struct Known<'a> {
    pub(super) config: &'a Config,
    pub(super) directory: &'a Directory,
    pub(super) at: DateTime,
    pub(super) read: &'a Read,
    /// Whether it was rejected.
    pub(super) is_rejected: bool,
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

pub(super) fn gone() -> Note {
    note(
        "certificate_gone",
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
pub(super) fn of_endpoint(name: &Name, read: &Read, directory: &Directory) -> Option<Note> {
    let Name::Event {
        event,
        endpoint: Some(wanted),
    } = name
    else {
        return None;
    };
    if read.places.is_empty() || read.places.iter().any(|place| place.endpoint == *wanted) {
        return None;
    }
    let key = EndpointKey::from_stored(wanted);
    let is_known = directory.knows(&key) || key.is_email();
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
    notes.extend(award(store, document, organization.as_deref(), known).await?);
    notes.extend(expiry(document, organization.as_deref(), known));
    Ok(notes)
}

fn organization(document: &RawDocument) -> Option<String> {
    match document.get("_ownerId") {
        Ok(Some(id)) if !matches!(id, RawBsonRef::Null | RawBsonRef::Undefined) => Some(id_part(id)),
        _ => None,
    }
}

/// Whether the outbox holds the event of that instant.
fn is_in_outbox(document: &RawDocument, event_type: EventType, at: DateTime, known: &Known<'_>) -> bool {
    let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
    let event = EventId::derive(event_type, id, at);
    known.read.places.iter().any(|place| place.event == event.as_str())
}

async fn award(
    store: &Store,
    document: &RawDocument,
    organization: Option<&str>,
    known: &Known<'_>,
) -> Result<Option<Note>> {
    let kind = EventType::CertificateCompleted;
    if !badge_user::is_awarded(document) {
        return Ok(Some(note(
            "not_awarded",
            "it has no creationDate: it was not awarded yet",
        )));
    }
    let Ok(at) = document.get_datetime("creationDate") else {
        return Ok(Some(note(
            "odd_creation_date",
            "`creationDate` is not a date: its award can't be an event",
        )));
    };
    if is_in_outbox(document, kind, at, known) || organization.is_none() || known.is_rejected {
        return Ok(None);
    }
    let wanting = wanting(organization, kind, known);
    if !known.config.completions.enabled {
        return Ok(Some(note(
            "awards_off",
            format!("its award is not told of: completions.enabled is false{wanting}"),
        )));
    }
    let position = store.state().find_one(doc! { "_id": "watch" }).await?;
    let Some(position) = position else {
        return Ok(Some(note(
            "award_before_start",
            format!(
                "it was awarded at {}, and no instance has watched for awards yet: awards from before that are not told of{wanting}",
                instant(at)
            ),
        )));
    };
    let moved = position.get_datetime("at").ok().copied();
    Ok(Some(match moved {
        Some(moved) if moved < at => note(
            "award_ahead",
            format!(
                "its award at {} is not found yet: the change stream stands at {}{wanting}",
                instant(at),
                instant(moved)
            ),
        ),
        _ => note(
            "award_not_sent",
            format!(
                "nothing is kept of its award at {}: no endpoint wanted it then, it is from before the first start, or its deliveries ended \
                 longer ago than delivery.retention{wanting}",
                instant(at)
            ),
        ),
    }))
}

fn expiry(document: &RawDocument, organization: Option<&str>, known: &Known<'_>) -> Vec<Note> {
    let marked = match document.get("expiryReminderSent") {
        Ok(None | Some(RawBsonRef::Null | RawBsonRef::Undefined)) => false,
        Ok(Some(RawBsonRef::Boolean(marked))) => marked,
        _ => {
            return vec![note(
                "odd_flag",
                "`expiryReminderSent` is not a boolean: the next scan records it as rejected",
            )];
        }
    };
    let at = match document.get("expires") {
        Ok(None | Some(RawBsonRef::Null | RawBsonRef::Undefined)) => {
            return vec![note("never_expires", "it never expires")];
        }
        Ok(Some(RawBsonRef::DateTime(at))) => at,
        _ => {
            return vec![note(
                "odd_expires",
                "`expires` is not a date: the next scan records it as rejected",
            )];
        }
    };
    if at > known.at {
        return not_expired(at, marked, known);
    }
    expired(document, at, marked, organization, known).into_iter().collect()
}

fn not_expired(at: DateTime, marked: bool, known: &Known<'_>) -> Vec<Note> {
    let mut notes = Vec::new();
    let was_told = known
        .read
        .places
        .iter()
        .any(|place| place.event_type == EventType::CertificateExpired.as_str());
    if was_told {
        notes.push(note(
            "renewed",
            format!(
                "it was renewed after an expiry that was told of: it expires at {}",
                instant(at)
            ),
        ));
    }
    notes.push(match marked {
        true => note(
            "marked_before_expiry",
            format!("it expires at {} and is marked already (expiryReminderSent): that expiry is not told of unless the platform takes the mark away", instant(at)),
        ),
        false => note("not_expired", format!("it has not expired yet: its expiry is told of at {}", instant(at))),
    });
    notes
}

fn expired(
    document: &RawDocument,
    at: DateTime,
    marked: bool,
    organization: Option<&str>,
    known: &Known<'_>,
) -> Option<Note> {
    let kind = EventType::CertificateExpired;
    if is_in_outbox(document, kind, at, known) {
        return None;
    }
    let (when, wanting) = (instant(at), wanting(organization, kind, known));
    if marked && known.is_rejected {
        return None;
    }
    if marked {
        return Some(note(
            "marked_not_sent",
            format!(
                "it expired at {when} and is marked (expiryReminderSent), and nothing is kept of that: no endpoint wanted it then, the platform marked \
                 it itself, or its deliveries ended longer ago than delivery.retention{wanting}"
            ),
        ));
    }
    if let Some(before) = known.config.scan.not_before.filter(|before| at < *before) {
        return Some(note(
            "before_not_before",
            format!(
                "it expired at {when}, before scan.not_before ({}): it is left alone",
                instant(before)
            ),
        ));
    }
    if let Err(unfit) = badge_user::expired(document, known.at) {
        return Some(note(
            "unfit",
            format!(
                "it expired at {when}, and the next scan records it as rejected: {}",
                one_line(unfit.reason)
            ),
        ));
    }
    let schedule = Schedule {
        cron: known.config.scan.schedule.clone(),
        zone: known.config.scan.timezone,
    };
    let next = schedule
        .next_after(known.at)
        .map(|next| format!(", at {} at the latest", instant(next)))
        .unwrap_or_default();
    Some(note(
        "next_scan",
        format!("it expired at {when} and is not marked: the next scan finds it{next}{wanting}"),
    ))
}

/// Which endpoints would want such an event now.
fn wanting(organization: Option<&str>, event_type: EventType, known: &Known<'_>) -> String {
    let Some(organization) = organization.filter(|id| known.directory.knows_organization(id)) else {
        return String::new();
    };
    let keys = known.directory.wanting(organization, event_type);
    let mut named: Vec<_> = keys.iter().take(NAMED).map(ToString::to_string).collect();
    if keys.len() > NAMED {
        named.push(format!("{} more", keys.len() - NAMED));
    }
    match named.is_empty() {
        true => format!("; no endpoint wants {event_type} now"),
        false => format!("; now {event_type} would go to {}", named.join(", ")),
    }
}
