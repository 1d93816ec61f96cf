//! The fields of an operation's document, each read as what it must be.

use std::fmt::Display;

use bson::{Bson, DateTime, Document, RawBsonRef};

use super::document::Refusal;
use crate::model::{EventType, id_part};
use crate::service::one_line;

/// The longest of `by` and `reason` that is kept, in bytes.
const LONGEST_TEXT: usize = 2_000;

/// Whether each field is known: a misspelt one would choose more than was meant.
pub(super) fn known_fields(document: &Document, path: &str, known: &[&str], also: &[&str]) -> Result<(), Refusal> {
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

pub(super) fn section(document: &Document, name: &str) -> Result<Document, Refusal> {
    match document.get(name) {
        None | Some(Bson::Null) => Ok(Document::new()),
        Some(Bson::Document(section)) => Ok(section.clone()),
        other => Err(mismatch(name, "a document", other)),
    }
}

/// An id as it is in keys, or as the platform has it; `part` turns the one into the other.
pub(super) fn id_by(
    selection: &Document,
    name: &str,
    part: fn(RawBsonRef<'_>) -> String,
) -> Result<Option<String>, Refusal> {
    let path = format!("selection.{name}");
    match selection.get(name) {
        None | Some(Bson::Null) => Ok(None),
        Some(Bson::String(text)) if !text.is_empty() && !text.contains('/') => Ok(Some(in_key(text, part))),
        Some(Bson::ObjectId(id)) => Ok(Some(id.to_hex())),
        Some(Bson::Int32(id)) => Ok(Some(part((*id).into()))),
        Some(Bson::Int64(id)) => Ok(Some(part((*id).into()))),
        other => Err(mismatch(&path, "an id as text or ObjectId", other)),
    }
}

/// An id of an organization or an endpoint, as it is in keys.
pub(super) fn id(selection: &Document, name: &str) -> Result<Option<String>, Refusal> {
    id_by(selection, name, id_part)
}

fn in_key(text: &str, part: fn(RawBsonRef<'_>) -> String) -> String {
    if is_in_keys(text) {
        text.to_lowercase()
    } else {
        part(text.into())
    }
}

/// Whether it is what keys and events' ids are made of: 24 hex digits of an ObjectId, or `h` or `u` and those of a hash.
fn is_in_keys(text: &str) -> bool {
    let digits = text.strip_prefix(['h', 'u']).unwrap_or(text);
    (digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())) || matches!(text, "all" | "email")
}

/// `ORGANIZATION/ENDPOINT`, or the endpoint's id alone.
pub(super) fn endpoint(selection: &Document, organization: Option<&str>) -> Result<Option<String>, Refusal> {
    let named = match selection.get("endpoint") {
        Some(Bson::String(text)) => text.split_once('/'),
        _ => None,
    };
    let Some((of, id)) = named.filter(|(of, id)| !of.is_empty() && !id.is_empty() && !id.contains('/')) else {
        let id = id(selection, "endpoint")?;
        return Ok(id.map(|id| organization.map_or(id.clone(), |organization| format!("{organization}/{id}"))));
    };
    let (of, id) = (in_key(of, id_part), in_key(id, id_part));
    Ok(Some(format!("{of}/{id}")))
}

/// One that is named with its organization must be of it.
pub(super) fn endpoint_of(endpoint: Option<&str>, organization: Option<&str>) -> Result<(), Refusal> {
    let (Some((of, _)), Some(organization)) = (endpoint.and_then(|key| key.split_once('/')), organization) else {
        return Ok(());
    };
    match of == organization {
        true => Ok(()),
        false => Err(wrong(
            "selection.endpoint",
            format!("an endpoint of organization {organization}"),
            endpoint.unwrap_or_default(),
        )),
    }
}

pub(super) fn one_of(selection: &Document, one: &str, other: &str) -> Result<Option<String>, Refusal> {
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

pub(super) fn event_type(selection: &Document) -> Result<Option<EventType>, Refusal> {
    let expected = || format!("one of {}", EventType::ALL.map(EventType::as_str).join(", "));
    match selection.get("eventType") {
        None | Some(Bson::Null) => Ok(None),
        Some(Bson::String(name)) => EventType::parse(name)
            .map(Some)
            .ok_or_else(|| wrong("selection.eventType", expected(), name)),
        other => Err(mismatch("selection.eventType", expected(), other)),
    }
}

pub(super) fn states(selection: &Document, allowed: &[&str]) -> Result<Option<Vec<String>>, Refusal> {
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
pub(super) fn instant(document: &Document, path: &str, name: &str) -> Result<Option<DateTime>, Refusal> {
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

pub(super) fn boolean(document: &Document, path: &str, name: &str) -> Result<bool, Refusal> {
    match document.get(name) {
        None | Some(Bson::Null) => Ok(false),
        Some(Bson::Boolean(value)) => Ok(*value),
        other => Err(mismatch(&format!("{path}{name}"), "true or false", other)),
    }
}

pub(super) fn rate(options: &Document) -> Result<Option<f64>, Refusal> {
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

pub(super) fn text(document: &Document, name: &str) -> Result<String, Refusal> {
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

pub(super) fn wrong(field: &str, expected: impl Display, found: &str) -> Refusal {
    format!("`{field}`: expected {expected}, found {}", shown(found))
}

pub(super) fn mismatch(field: &str, expected: impl Display, found: Option<&Bson>) -> Refusal {
    let found = match found {
        None => "nothing".to_owned(),
        Some(Bson::String(text)) => format!("the text {:?}", shown(text)),
        Some(other) => format!("{:?}", other.element_type()),
    };
    format!("`{field}`: expected {expected}, found {found}")
}

pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(100).collect();
    one_line(short).to_string()
}
