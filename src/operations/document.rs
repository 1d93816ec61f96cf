//! What is asked for: a document of `webhook_operations`, read and judged. Who wrote it is not trusted: whatever can't be
//! understood is refused with the field, what was expected and what was found.

use std::fmt::Display;

use bson::{Bson, DateTime, Document, RawBsonRef};

use super::holds::Target;
use crate::model::{EndpointKey, EventType, id_part, key_part};
use crate::outbox::Selection;
use crate::service::one_line;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Deliveries that have ended go out again.
    Replay,
    /// Deliveries of an endpoint, an organization or all wait.
    Hold,
    /// They go out again.
    Release,
    /// Deliveries that wait, or dead letters, end as cancelled.
    Cancel,
    /// A sample goes to an endpoint.
    Test,
    /// The present state of an organization's certificates goes to one of its endpoints.
    Backfill,
}

impl Kind {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Replay, "replay"),
        (Self::Hold, "hold"),
        (Self::Release, "release"),
        (Self::Cancel, "cancel"),
        (Self::Test, "test"),
        (Self::Backfill, "backfill"),
    ];

    /// Its name in a document.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(kind, _)| *kind)
    }

    /// The fields of `selection` that it takes.
    fn selects_by(self) -> &'static [&'static str] {
        match self {
            Self::Replay | Self::Cancel => &[
                "all",
                "organization",
                "endpoint",
                "certificate",
                "event",
                "delivery",
                "eventType",
                "states",
                "from",
                "to",
            ],
            Self::Hold | Self::Release => &["all", "organization", "endpoint"],
            Self::Test => &["organization", "endpoint", "eventType"],
            Self::Backfill => &["organization", "endpoint", "certificate", "from", "to"],
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Replay | Self::Cancel => &["ratePerSecond", "dryRun"],
            Self::Hold => &["until"],
            Self::Backfill => &["ratePerSecond", "dryRun", "includeExpired"],
            Self::Release | Self::Test => &[],
        }
    }

    /// The states that it takes deliveries in, and those without a choice.
    fn states(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Cancel => (&["pending", "dead"], &["pending"]),
            _ => (&["dead", "cancelled", "delivered"], &["dead"]),
        }
    }
}

/// An operation that makes sense.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) kind: Kind,
    /// Which deliveries: for replay and cancel.
    pub(super) selection: Selection,
    /// Whose: for hold and release.
    pub(super) target: Option<Target>,
    pub(super) until: Option<DateTime>,
    /// Deliveries per second, at most.
    pub(super) rate: Option<f64>,
    pub(super) is_dry_run: bool,
    pub(super) includes_expired: bool,
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) cancel: bool,
}

/// An `_id` as people read it.
pub fn id_text(id: &Bson) -> String {
    match id {
        Bson::ObjectId(id) => id.to_hex(),
        Bson::String(text) => shown(text),
        other => shown(&other.to_string()),
    }
}

/// Why a document makes no sense.
pub type Refusal = String;

/// Fields that are not part of what is asked for: the daemon's, and what Mongoose adds.
const OTHER_FIELDS: [&str; 17] = [
    "_id",
    "kind",
    "selection",
    "options",
    "by",
    "reason",
    "at",
    "cancel",
    "state",
    "progress",
    "result",
    "startedAt",
    "finishedAt",
    "instance",
    "__v",
    "createdAt",
    "updatedAt",
];

/// The longest of `by` and `reason` that is kept, in bytes.
const LONGEST_TEXT: usize = 2_000;

impl Request {
    /// Reads and judges a document.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn read(document: &Document) -> Result<Self, Refusal> {
        known_fields(document, "", &OTHER_FIELDS, &["error", "control"])?;
        let kinds = || Kind::ALL.map(|(_, name)| name).join(", ");
        let kind = match document.get("kind") {
            Some(Bson::String(name)) => {
                Kind::parse(name).ok_or_else(|| wrong("kind", format!("one of {}", kinds()), name))
            }
            other => Err(mismatch("kind", format!("one of {}", kinds()), other)),
        }?;
        let selection = section(document, "selection")?;
        let chosen = selection_of(kind, &selection)?;
        let options = section(document, "options")?;
        known_fields(&options, "options.", kind.options(), &[])?;
        let target = match kind {
            Kind::Hold | Kind::Release => Some(read_target(&selection)?),
            _ => None,
        };
        Ok(Self {
            kind,
            target,
            selection: chosen,
            until: instant(&options, "options.", "until")?,
            rate: rate(&options)?,
            is_dry_run: boolean(&options, "options.", "dryRun")?,
            includes_expired: boolean(&options, "options.", "includeExpired")?,
            by: text(document, "by")?,
            reason: text(document, "reason")?,
            cancel: boolean(document, "", "cancel")?,
        })
    }
}

impl Request {
    /// Whether it takes one transaction, or none.
    pub(super) fn is_quick(&self) -> bool {
        matches!(self.kind, Kind::Hold | Kind::Release | Kind::Test)
    }

    /// The endpoint, if it is named by its id alone.
    pub(super) fn bare_endpoint(&self) -> Option<String> {
        let named = match &self.target {
            Some(Target::Endpoint(endpoint)) => Some(endpoint.as_str()),
            _ => self.selection.endpoint.as_deref(),
        };
        named.filter(|named| !named.contains('/')).map(str::to_owned)
    }

    pub(super) fn set_endpoint(&mut self, endpoint: &EndpointKey) {
        self.selection.endpoint = Some(endpoint.as_str().to_owned());
        if self.target.is_some() {
            self.target = Some(Target::Endpoint(endpoint.clone()));
        }
    }

    /// What a delivery that it cancels says.
    pub(super) fn cancel_reason(&self) -> String {
        let by = if self.by.is_empty() { "an operation" } else { &self.by };
        match self.reason.as_str() {
            "" => format!("cancelled by {by}"),
            reason => format!("cancelled by {by}: {reason}"),
        }
    }
}

/// What a `selection` means.
///
/// # Errors
/// The first thing that makes no sense.
pub fn selection_of(kind: Kind, selection: &Document) -> Result<Selection, Refusal> {
    known_fields(selection, "selection.", kind.selects_by(), &[])?;
    read_selection(kind, selection)
}

fn read_target(selection: &Document) -> Result<Target, Refusal> {
    let all = boolean(selection, "selection.", "all")?;
    let organization = id(selection, "organization")?;
    let endpoint = endpoint(selection, organization.as_deref())?;
    match (all, organization, endpoint) {
        (true, None, None) => Ok(Target::All),
        (false, Some(organization), None) => Ok(Target::Organization(organization)),
        (false, _, Some(endpoint)) => Ok(Target::Endpoint(EndpointKey::from_stored(&endpoint))),
        (true, ..) => Err("`selection`: expected `all` or an organization or endpoint, found both".into()),
        (false, None, None) => Err(empty("all: true, organization or endpoint")),
    }
}

fn read_selection(kind: Kind, selection: &Document) -> Result<Selection, Refusal> {
    let (allowed, usual) = kind.states();
    let organization = id(selection, "organization")?;
    let chosen = Selection {
        id: one_of(selection, "delivery", "event")?,
        certificate: id_by(selection, "certificate", key_part)?,
        endpoint: endpoint(selection, organization.as_deref())?,
        organization,
        event_type: event_type(selection)?,
        from: instant(selection, "selection.", "from")?,
        to: instant(selection, "selection.", "to")?,
        states: states(selection, allowed)?.unwrap_or_else(|| usual.iter().map(|state| (*state).to_owned()).collect()),
    };
    let all = boolean(selection, "selection.", "all")?;
    match kind {
        Kind::Hold | Kind::Release => {}
        Kind::Test | Kind::Backfill if chosen.endpoint.is_none() => return Err(empty("an endpoint")),
        _ if !all && !chosen.chooses() => return Err(empty("what is meant, or all: true")),
        _ if all && chosen.chooses() => {
            return Err("`selection`: expected `all` or a choice, found both".into());
        }
        _ => {}
    }
    Ok(chosen)
}

fn empty(expected: &str) -> Refusal {
    format!("`selection`: expected {expected}, found nothing that chooses")
}

/// Whether each field is known: a misspelt one would choose more than was meant.
fn known_fields(document: &Document, path: &str, known: &[&str], also: &[&str]) -> Result<(), Refusal> {
    for name in document.keys() {
        if known.contains(&name.as_str()) || also.contains(&name.as_str()) {
            continue;
        }
        let nearest = known.iter().max_by(|a, b| {
            let [a, b] = [a, b].map(|known| strsim::jaro_winkler(known, name));
            a.total_cmp(&b)
        });
        let nearest = nearest.map_or_else(String::new, |nearest| format!("; the nearest: {nearest}"));
        return Err(format!("`{path}{}`: no such field here{nearest}", shown(name)));
    }
    Ok(())
}

fn section(document: &Document, name: &str) -> Result<Document, Refusal> {
    match document.get(name) {
        None | Some(Bson::Null) => Ok(Document::new()),
        Some(Bson::Document(section)) => Ok(section.clone()),
        other => Err(mismatch(name, "a document", other)),
    }
}

/// An id as it is in keys, or as the platform has it; `part` turns the one into the other.
fn id_by(selection: &Document, name: &str, part: fn(RawBsonRef<'_>) -> String) -> Result<Option<String>, Refusal> {
    let path = format!("selection.{name}");
    match selection.get(name) {
        None | Some(Bson::Null) => Ok(None),
        Some(Bson::String(text)) if is_in_keys(text) => Ok(Some(text.to_lowercase())),
        Some(Bson::String(text)) if !text.is_empty() && !text.contains('/') => Ok(Some(part(text.as_str().into()))),
        Some(Bson::ObjectId(id)) => Ok(Some(id.to_hex())),
        Some(Bson::Int32(id)) => Ok(Some(part((*id).into()))),
        Some(Bson::Int64(id)) => Ok(Some(part((*id).into()))),
        other => Err(mismatch(&path, "an id as text or ObjectId", other)),
    }
}

/// An id of an organization or an endpoint, as it is in keys.
fn id(selection: &Document, name: &str) -> Result<Option<String>, Refusal> {
    id_by(selection, name, id_part)
}

/// Whether it is what keys and events' ids are made of: 24 hex digits of an ObjectId, or `h` or `u` and those of a hash.
fn is_in_keys(text: &str) -> bool {
    let digits = text.strip_prefix(['h', 'u']).unwrap_or(text);
    (digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())) || matches!(text, "all" | "email")
}

/// `ORGANIZATION/ENDPOINT`, or the endpoint's id alone.
fn endpoint(selection: &Document, organization: Option<&str>) -> Result<Option<String>, Refusal> {
    let whole = match selection.get("endpoint") {
        Some(Bson::String(text))
            if text.matches('/').count() == 1 && !text.starts_with('/') && !text.ends_with('/') =>
        {
            Some(text.clone())
        }
        _ => None,
    };
    if let Some(whole) = whole {
        return Ok(Some(whole));
    }
    let id = id(selection, "endpoint")?;
    Ok(id.map(|id| organization.map_or(id.clone(), |organization| format!("{organization}/{id}"))))
}

fn one_of(selection: &Document, one: &str, other: &str) -> Result<Option<String>, Refusal> {
    let text = |name: &str| match selection.get(name) {
        None | Some(Bson::Null) => Ok(None),
        Some(Bson::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        found => Err(mismatch(&format!("selection.{name}"), "an id as text", found)),
    };
    match (text(one)?, text(other)?) {
        (Some(_), Some(_)) => Err(format!("`selection`: expected `{one}` or `{other}`, found both")),
        (found, None) | (None, found) => Ok(found),
    }
}

fn event_type(selection: &Document) -> Result<Option<EventType>, Refusal> {
    let expected = || format!("one of {}", EventType::ALL.map(EventType::as_str).join(", "));
    match selection.get("eventType") {
        None | Some(Bson::Null) => Ok(None),
        Some(Bson::String(name)) => EventType::parse(name)
            .map(Some)
            .ok_or_else(|| wrong("selection.eventType", expected(), name)),
        other => Err(mismatch("selection.eventType", expected(), other)),
    }
}

fn states(selection: &Document, allowed: &[&str]) -> Result<Option<Vec<String>>, Refusal> {
    let expected = || format!("a list of {}", allowed.join(", "));
    let Some(value) = selection.get("states").filter(|value| !matches!(value, Bson::Null)) else {
        return Ok(None);
    };
    let Bson::Array(values) = value else {
        return Err(mismatch("selection.states", expected(), Some(value)));
    };
    let state = |value: &Bson| match value {
        Bson::String(state) if allowed.contains(&state.as_str()) => Ok(state.clone()),
        Bson::String(state) => Err(wrong("selection.states", expected(), state)),
        other => Err(mismatch("selection.states", expected(), Some(other))),
    };
    let states: Vec<_> = values.iter().map(state).collect::<Result<_, _>>()?;
    match states.is_empty() {
        true => Err(wrong("selection.states", expected(), "an empty list")),
        false => Ok(Some(states)),
    }
}

/// A date, or a text as in RFC 3339.
fn instant(document: &Document, path: &str, name: &str) -> Result<Option<DateTime>, Refusal> {
    let expected = "a date, or a text such as 2026-01-31T00:00:00Z";
    match document.get(name) {
        None | Some(Bson::Null) => Ok(None),
        Some(Bson::DateTime(at)) => Ok(Some(*at)),
        Some(Bson::String(text)) => match DateTime::parse_rfc3339_str(text) {
            Ok(at) => Ok(Some(at)),
            Err(_) => Err(wrong(&format!("{path}{name}"), expected, text)),
        },
        other => Err(mismatch(&format!("{path}{name}"), expected, other)),
    }
}

fn boolean(document: &Document, path: &str, name: &str) -> Result<bool, Refusal> {
    match document.get(name) {
        None | Some(Bson::Null) => Ok(false),
        Some(Bson::Boolean(value)) => Ok(*value),
        other => Err(mismatch(&format!("{path}{name}"), "true or false", other)),
    }
}

fn rate(options: &Document) -> Result<Option<f64>, Refusal> {
    let expected = "deliveries per second, a number from 0.01 to 100000";
    let number = match options.get("ratePerSecond") {
        None | Some(Bson::Null) => return Ok(None),
        Some(Bson::Int32(number)) => f64::from(*number),
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        Some(Bson::Int64(number)) if (0..=100_000).contains(number) => *number as f64,
        Some(Bson::Double(number)) => *number,
        other => return Err(mismatch("options.ratePerSecond", expected, other)),
    };
    match (0.01..=100_000.0).contains(&number) {
        true => Ok(Some(number)),
        false => Err(wrong("options.ratePerSecond", expected, &number.to_string())),
    }
}

fn text(document: &Document, name: &str) -> Result<String, Refusal> {
    match document.get(name) {
        None | Some(Bson::Null) => Ok(String::new()),
        Some(Bson::String(text)) if text.len() <= LONGEST_TEXT => Ok(text.clone()),
        Some(Bson::String(text)) => Err(wrong(
            name,
            format!("a text of at most {LONGEST_TEXT} bytes"),
            &format!("one of {}", text.len()),
        )),
        other => Err(mismatch(name, "a text", other)),
    }
}

fn wrong(field: &str, expected: impl Display, found: &str) -> Refusal {
    format!("`{field}`: expected {expected}, found {}", shown(found))
}

fn mismatch(field: &str, expected: impl Display, found: Option<&Bson>) -> Refusal {
    let found = match found {
        None => "nothing".to_owned(),
        Some(Bson::String(text)) => format!("the text {:?}", shown(text)),
        Some(other) => format!("{:?}", other.element_type()),
    };
    format!("`{field}`: expected {expected}, found {found}")
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(100).collect();
    one_line(short).to_string()
}
