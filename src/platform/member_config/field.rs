//! Reading the fields of a document that may hold anything. Errors are reasons for the operator.

use std::hash::{DefaultHasher, Hash, Hasher};

use bson::raw::RawElement;
use bson::spec::ElementType;
use bson::{RawBsonRef, RawDocument};

/// The fields of those names, found in one pass: a document may have a million others.
pub(super) struct Fields<'a> {
    found: Vec<(&'static str, Option<RawElement<'a>>)>,
    /// It is broken somewhere: then an absent field proves nothing.
    broken: bool,
}

impl<'a> Fields<'a> {
    /// If a field is repeated, the last one counts, as in the Node driver.
    pub(super) fn read(document: &'a RawDocument, names: &[&'static str]) -> Self {
        let mut fields = Self {
            found: names.iter().map(|name| (*name, None)).collect(),
            broken: false,
        };
        for element in document.iter_elements() {
            let Ok(element) = element else {
                fields.broken = true;
                break;
            };
            let name = element.key().as_str();
            if let Some((_, found)) = fields.found.iter_mut().find(|(wanted, _)| *wanted == name) {
                *found = Some(element);
            }
        }
        fields
    }

    /// The field's value; `name` must be one of those that were read.
    pub(super) fn get(&self, name: &str) -> Result<Option<RawBsonRef<'a>>, String> {
        if self.broken {
            return Err(format!("the document is not valid BSON, `{name}` can't be read"));
        }
        let element = self.found.iter().find(|(found, _)| *found == name);
        debug_assert!(element.is_some(), "{name} was not read");
        element
            .and_then(|(_, element)| element.as_ref())
            .map(RawElement::value)
            .transpose()
            .map_err(|_| format!("`{name}` is not valid BSON"))
    }

    /// The same, with null and undefined counted as absent.
    pub(super) fn present(&self, name: &str) -> Result<Option<RawBsonRef<'a>>, String> {
        let value = self.get(name)?;
        Ok(value.filter(|value| !matches!(value, RawBsonRef::Null | RawBsonRef::Undefined)))
    }

    /// A field that is a string or absent.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        match self.present(name)? {
            None => Ok(None),
            Some(RawBsonRef::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, other, "a string")),
        }
    }

    /// Another one when any of the fields has another value.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, element) in &self.found {
            name.hash(&mut hasher);
            match element.as_ref().map(RawElement::value) {
                Some(Ok(value)) => hash(value, &mut hasher),
                Some(Err(_)) => hasher.write_u8(1),
                None => hasher.write_u8(0),
            }
        }
        hasher.finish()
    }
}

fn hash(value: RawBsonRef<'_>, hasher: &mut DefaultHasher) {
    format!("{:?}", value.element_type()).hash(hasher);
    match value {
        RawBsonRef::Document(document) => document.as_bytes().hash(hasher),
        RawBsonRef::Array(array) => array.as_bytes().hash(hasher),
        RawBsonRef::String(text) => text.hash(hasher),
        RawBsonRef::Binary(binary) => binary.bytes.hash(hasher),
        other => format!("{other:?}").hash(hasher),
    }
}

/// Any of BSON's number types. `None` for everything else, NaN included.
pub(super) fn number(value: RawBsonRef<'_>) -> Option<f64> {
    let number = match value {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n as f64),
        RawBsonRef::Double(n) => Some(n),
        RawBsonRef::Decimal128(n) => n.to_string().parse().ok(),
        _ => None,
    };
    number.filter(|number: &f64| !number.is_nan())
}

/// "`name` is a date, expected a string".
pub(super) fn wrong_type(name: &str, value: RawBsonRef<'_>, expected: &str) -> String {
    format!("`{name}` is {}, expected {expected}", type_name(value))
}

pub(super) fn type_name(value: RawBsonRef<'_>) -> &'static str {
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
