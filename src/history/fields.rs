//! Fields of documents that may hold anything: what is of another type than expected is named, and counts as absent.

use bson::{Bson, DateTime, Document};

use super::Odd;
use crate::model::printable;

/// A text that is longer, in bytes, is cut.
const LONGEST: usize = 4096;

/// A document, and what of it is odd.
pub(super) struct Fields<'a> {
    pub(super) document: &'a Document,
    id: String,
    odd: &'a mut Vec<Odd>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(document: &'a Document, odd: &'a mut Vec<Odd>) -> Self {
        let id = document.get("_id").map_or_else(|| "without an _id".into(), shown);
        Self { document, id, odd }
    }

    /// The `_id` of the whole document.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Within the same document.
    pub(super) fn within<'b>(&'b mut self, document: &'b Document) -> Fields<'b> {
        Fields {
            document,
            id: self.id.clone(),
            odd: self.odd,
        }
    }

    pub(super) fn name(&mut self, what: impl Into<String>) {
        let odd = Odd {
            document: self.id.clone(),
            why: what.into(),
        };
        if !self.odd.contains(&odd) {
            self.odd.push(odd);
        }
    }

    pub(super) fn text(&mut self, field: &str) -> Option<String> {
        self.get(field, "a string", |value| value.as_str().map(plain))
    }

    pub(super) fn number(&mut self, field: &str) -> Option<i64> {
        self.get(field, "a number", |value| match value {
            Bson::Int32(number) => Some(i64::from(*number)),
            Bson::Int64(number) => Some(*number),
            _ => None,
        })
    }

    pub(super) fn instant(&mut self, field: &str) -> Option<DateTime> {
        self.get(field, "a date", |value| value.as_datetime().copied())
    }

    pub(super) fn flag(&mut self, field: &str) -> bool {
        self.get(field, "a boolean", Bson::as_bool).unwrap_or(false)
    }

    pub(super) fn array(&mut self, field: &str) -> &'a [Bson] {
        self.get(field, "an array", |value| value.as_array().map(Vec::as_slice))
            .unwrap_or_default()
    }

    /// The elements of an array, which are documents.
    pub(super) fn documents(&mut self, field: &str) -> Vec<&'a Document> {
        let all = self.array(field);
        let documents: Vec<_> = all.iter().filter_map(Bson::as_document).collect();
        if documents.len() < all.len() {
            self.name(format!("`{field}` holds something that is no document"));
        }
        documents
    }

    fn get<T>(&mut self, field: &str, expected: &str, read: impl Fn(&'a Bson) -> Option<T>) -> Option<T> {
        let value = self.document.get(field).filter(|value| **value != Bson::Null)?;
        let read = read(value);
        if read.is_none() {
            self.name(format!("`{field}` is not {expected}"));
        }
        read
    }
}

/// A value as people read it.
pub(super) fn shown(value: &Bson) -> String {
    match value {
        Bson::String(text) => plain(text),
        Bson::ObjectId(id) => id.to_hex(),
        Bson::DateTime(at) => at
            .try_to_rfc3339_string()
            .unwrap_or_else(|_| at.timestamp_millis().to_string()),
        other => plain(&other.to_string()),
    }
}

fn plain(text: &str) -> String {
    printable(text.as_bytes(), LONGEST)
}
