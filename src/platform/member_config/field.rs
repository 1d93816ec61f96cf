//! Reading one field of a document that may hold anything. Errors are reasons for the operator.

use bson::spec::ElementType;
use bson::{RawBsonRef, RawDocument};

/// The last value of that name, as the Node driver reads it.
///
/// Reads the document to its end: an error means that it is broken somewhere, and then an absent field proves nothing.
pub(super) fn get<'a>(document: &'a RawDocument, name: &str) -> Result<Option<RawBsonRef<'a>>, String> {
    let mut last = None;
    for element in document.iter_elements() {
        let element = element.map_err(|_| format!("the document is not valid BSON, `{name}` can't be read"))?;
        if element.key().as_str() == name {
            last = Some(element);
        }
    }
    last.map(|element| element.value())
        .transpose()
        .map_err(|_| format!("`{name}` is not valid BSON"))
}

/// The same, with null and undefined counted as absent.
pub(super) fn present<'a>(document: &'a RawDocument, name: &str) -> Result<Option<RawBsonRef<'a>>, String> {
    let value = get(document, name)?;
    Ok(value.filter(|value| !matches!(value, RawBsonRef::Null | RawBsonRef::Undefined)))
}

/// A field that is a string or absent.
pub(super) fn text<'a>(document: &'a RawDocument, name: &str) -> Result<Option<&'a str>, String> {
    match present(document, name)? {
        None => Ok(None),
        Some(RawBsonRef::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(name, other, "a string")),
    }
}

/// Any of BSON's number types. `None` for everything else.
pub(super) fn number(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n as f64),
        RawBsonRef::Double(n) => Some(n),
        RawBsonRef::Decimal128(n) => n.to_string().parse().ok(),
        _ => None,
    }
}

/// "`name` is a date, expected a string".
pub(super) fn wrong_type(name: &str, value: RawBsonRef<'_>, expected: &str) -> String {
    format!("`{name}` is {}, expected {expected}", type_name(value))
}

fn type_name(value: RawBsonRef<'_>) -> &'static str {
    match value.element_type() {
        ElementType::Double | ElementType::Int32 | ElementType::Int64 | ElementType::Decimal128 => "a number",
        ElementType::String | ElementType::Symbol => "a string",
        ElementType::EmbeddedDocument => "a document",
        ElementType::Array => "an array",
        ElementType::Boolean => "a boolean",
        ElementType::DateTime => "a date",
        ElementType::ObjectId => "an ObjectId",
        ElementType::Null | ElementType::Undefined => "null",
        _ => "of another type",
    }
}
