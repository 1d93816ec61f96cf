//! A document as receivers get it: byte for byte what `JSON.stringify` prints in Node for what the MongoDB driver returns.
//!
//! The reference is the Node driver 6, that of Mongoose 8: its npm package `bson` 6 with the driver's default options. `tests/data/json`
//! holds what it and version 7, that of Mongoose 9, printed for every BSON type. They differ in two things: 7 puts a 64-bit integer's
//! `high` before its `low`, and makes no DBRef of a document in a Code's scope. What surprises:
//!
//! * JavaScript objects put integer keys ("0", "10") first, in ascending order, and a repeated key keeps its first place and
//!   takes its last value. So do we; all other fields keep their order.
//! * `undefined` is dropped from objects and `null` in arrays; NaN, infinities and impossible dates are `null`; -0 is `0`.
//! * A 64-bit integer is a number up to ±2^53 and `{"low":…,"high":…,"unsigned":false}` beyond.
//! * Regular expressions, MinKey and MaxKey are `{}`, also a pattern that the driver could not compile.
//! * What looks like a DBRef comes as `$ref`, `$id`, the other fields, `$db`, and a dot in `$ref` splits off the database.
//! * Not imitated: a Decimal128 whose coefficient has more than 34 digits, which no encoder writes, is zero at any exponent.

mod date;
mod order;
mod scalar;

use bson::error::ErrorKind;
use bson::{RawArray, RawBsonRef, RawDocument};
use bytes::Bytes;

use order::Property;

/// The levels of documents and arrays that are followed: twice MongoDB's documented limit of 100 for stored documents.
pub const MAX_DEPTH: usize = 200;

/// Keys are named in errors up to this many characters.
const KEY_CHARS: usize = 40;

/// Why a document has no JSON. Names the field, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {fault}", if path.is_empty() { "the document".to_owned() } else { format!("field `{path}`") })]
pub struct JsonError {
    /// The keys and array positions that lead to the field, joined with dots, escaped and shortened; empty for the document.
    pub path: String,
    /// What is wrong with it.
    pub fault: JsonFault,
}

/// What may be wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// A string or a key that is no UTF-8.
    #[error("holds text that is not UTF-8")]
    NotUtf8,
    /// Bytes that are no BSON.
    #[error("is not valid BSON")]
    Malformed,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Appends the JSON of `document` to `out`, in one pass. On an error `out` is as it was.
pub fn append_json(document: &RawDocument, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let start = out.len();
    let mut writer = Writer {
        out,
        properties: Vec::new(),
        depth: 0,
    };
    let written = writer.document(document);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// The JSON of `document`, as a request's body.
pub fn to_json(document: &RawDocument) -> Result<Bytes, JsonError> {
    let mut out = Vec::with_capacity(document.as_bytes().len() * 2);
    append_json(document, &mut out)?;
    Ok(out.into())
}

struct Writer<'out, 'doc> {
    out: &'out mut Vec<u8>,
    /// The properties of the objects that are open, outermost first: one stack for all of them saves allocations.
    properties: Vec<Property<'doc>>,
    depth: usize,
}

impl<'doc> Writer<'_, 'doc> {
    fn document(&mut self, document: &'doc RawDocument) -> Result<(), JsonError> {
        self.enter()?;
        self.out.push(b'{');
        let first = self.properties.len();
        for element in document.iter_elements() {
            let element = element.map_err(JsonError::of_bson)?;
            let key = element.key().as_str();
            self.properties.push(Property {
                key,
                start: self.out.len(),
            });
            match element.value().map_err(JsonError::of_bson) {
                Ok(RawBsonRef::Undefined) => Ok(()),
                Ok(value) => self.member(key, value),
                Err(error) => Err(error),
            }
            .map_err(|error| error.inside(key))?;
        }
        order::as_javascript(document, &self.properties[first..], self.out);
        self.properties.truncate(first);
        self.close(b'}');
        Ok(())
    }

    /// Writes `"key":value,`.
    fn member(&mut self, key: &str, value: RawBsonRef<'doc>) -> Result<(), JsonError> {
        scalar::append_key(key, self.out);
        self.value(value)?;
        self.out.push(b',');
        Ok(())
    }

    /// The keys of a BSON array are ignored: its elements are written in their order.
    fn array(&mut self, array: &'doc RawArray) -> Result<(), JsonError> {
        self.enter()?;
        self.out.push(b'[');
        for (position, value) in array.into_iter().enumerate() {
            let value = value.map_err(JsonError::of_bson);
            value
                .and_then(|value| self.value(value))
                .map_err(|error| error.inside(&position.to_string()))?;
            self.out.push(b',');
        }
        self.close(b']');
        Ok(())
    }

    fn value(&mut self, value: RawBsonRef<'doc>) -> Result<(), JsonError> {
        match value {
            RawBsonRef::Document(document) => return self.document(document),
            RawBsonRef::Array(array) => return self.array(array),
            RawBsonRef::JavaScriptCodeWithScope(value) => {
                self.out.extend_from_slice(b"{\"code\":");
                scalar::append_string(value.code, self.out);
                self.out.extend_from_slice(b",\"scope\":");
                self.document(value.scope).map_err(|error| error.inside("scope"))?;
                self.out.push(b'}');
            }
            scalar => scalar::append_scalar(scalar, self.out),
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(JsonError {
                path: String::new(),
                fault: JsonFault::TooDeep,
            });
        }
        Ok(())
    }

    /// Ends an object or array whose last member is followed by a comma.
    fn close(&mut self, bracket: u8) {
        self.out.pop_if(|last| *last == b',');
        self.out.push(bracket);
        self.depth -= 1;
    }
}

impl JsonError {
    fn of_bson(error: bson::error::Error) -> Self {
        let fault = match error.kind {
            ErrorKind::Utf8Encoding { .. } => JsonFault::NotUtf8,
            _ => JsonFault::Malformed,
        };
        Self {
            path: String::new(),
            fault,
        }
    }

    /// The same error, seen from the object or array that holds it under `key`.
    fn inside(mut self, key: &str) -> Self {
        let short: String = key.chars().take(KEY_CHARS).collect();
        let dot = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{}{dot}{}", short.escape_debug(), self.path);
        self
    }
}

#[cfg(test)]
mod tests;
