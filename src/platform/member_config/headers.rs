//! An endpoint's own request headers.

use bson::{RawBsonRef, RawDocument};
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use super::Envelopes;
use super::field::{Fields, wrong_type};
use crate::platform::is_reserved;

pub(super) const MAX_COUNT: usize = 64;

/// Names and values together, in bytes.
pub(super) const MAX_BYTES: usize = 16 << 10;

/// The headers, their values marked sensitive. Reserved ones are left out, and `changes` says so.
pub(super) fn read(
    endpoint: &Fields<'_>,
    envelopes: Envelopes<'_>,
    changes: &mut Vec<String>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let Some(value) = endpoint.present("headers")? else {
        return Ok(headers);
    };
    let fields = value
        .as_document()
        .ok_or_else(|| wrong_type("headers", value, "a document"))?;
    check_size(fields)?;
    for (position, entry) in fields.iter().enumerate() {
        let number = position + 1;
        let (name, value) = entry.map_err(|_| format!("`headers`: number {number} is not valid BSON"))?;
        // A name that is none isn't quoted: someone may have put "Authorization: Bearer …" there.
        let name = HeaderName::from_bytes(name.as_str().as_bytes())
            .map_err(|_| format!("`headers`: the name of number {number} is not a header name"))?;
        if is_reserved(&name) {
            changes.push(format!("`headers`: {name:.60} is set by the daemon and left out"));
            continue;
        }
        let value = header_value(&name, value, envelopes)
            .map_err(|reason| format!("`headers`: the value of {name:.60} {reason}"))?;
        headers
            .try_insert(name, value)
            .map_err(|_| "`headers` has more entries than a request can carry")?;
    }
    Ok(headers)
}

/// By number first: 400,000 headers must not cost more than 65.
fn check_size(fields: &RawDocument) -> Result<(), String> {
    if fields.iter_elements().nth(MAX_COUNT).is_some() {
        return Err(format!("`headers` has more than {MAX_COUNT} entries"));
    }
    let length = |(name, value): (&bson::raw::CStr, RawBsonRef<'_>)| name.len() + value.as_str().map_or(0, str::len);
    let bytes: usize = fields.iter().flatten().map(length).sum();
    if bytes > MAX_BYTES {
        return Err(format!("`headers` has more than {} KB", MAX_BYTES >> 10));
    }
    Ok(())
}

fn header_value(name: &HeaderName, value: RawBsonRef<'_>, envelopes: Envelopes<'_>) -> Result<HeaderValue, String> {
    let text = value.as_str().ok_or("is not a string")?;
    let text = envelopes.read(&format!("headers.{name}"), text)?;
    // As Node does: characters up to U+00FF go out as the one byte of Latin-1.
    let latin1: Option<Vec<u8>> = text.expose_secret().chars().map(|c| u8::try_from(c).ok()).collect();
    let mut value = latin1
        .and_then(|bytes| HeaderValue::from_bytes(&bytes).ok())
        .ok_or("holds a line break or another character that headers can't carry")?;
    value.set_sensitive(true);
    Ok(value)
}
