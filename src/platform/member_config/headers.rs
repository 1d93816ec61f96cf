//! An endpoint's own request headers.

use bson::{RawBsonRef, RawDocument};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::field;
use crate::platform::is_reserved;

/// The headers, their values marked sensitive. Reserved ones are left out, and `changes` says so.
pub(super) fn read(source: &RawDocument, changes: &mut Vec<String>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let Some(value) = field::present(source, "headers")? else {
        return Ok(headers);
    };
    let fields = value
        .as_document()
        .ok_or_else(|| field::wrong_type("headers", value, "a document"))?;
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
        let value = header_value(value).map_err(|reason| format!("`headers`: the value of {name:.60} {reason}"))?;
        headers
            .try_insert(name, value)
            .map_err(|_| "`headers` has more entries than a request can carry")?;
    }
    Ok(headers)
}

fn header_value(value: RawBsonRef<'_>) -> Result<HeaderValue, &'static str> {
    let text = value.as_str().ok_or("is not a string")?;
    // As Node does: characters up to U+00FF go out as the one byte of Latin-1.
    let latin1: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    let mut value = latin1
        .and_then(|bytes| HeaderValue::from_bytes(&bytes).ok())
        .ok_or("holds a line break or another character that headers can't carry")?;
    value.set_sensitive(true);
    Ok(value)
}
