//! The order in which a JavaScript object lists its properties, where it is not the order in which they were set.

use std::collections::HashMap;
use std::ops::Range;

use bson::{RawBsonRef, RawDocument};

use super::scalar::{append_key, append_string};

/// Objects with more properties than this are searched for repeated keys by sorting.
const FEW: usize = 32;

/// One property of an object that is being written.
pub(super) struct Property<'doc> {
    pub(super) key: &'doc str,
    /// Where its `"key":value,` begins in the output; it ends where the next begins. Empty for `undefined`.
    pub(super) start: usize,
}

/// Brings the properties just written of `document` (all of `out` from the first one's start) into the order, and down to the
/// selection, that the driver's JavaScript object has. Nearly always they are in it already.
pub(super) fn as_javascript(document: &RawDocument, properties: &[Property<'_>], out: &mut Vec<u8>) {
    let Some(first) = properties.first() else { return };
    if !is_as_written(properties) {
        let written = out.split_off(first.start);
        rewrite(document, properties, &written, out);
    }
}

fn is_as_written(properties: &[Property<'_>]) -> bool {
    let special = |key: &str| array_index(key).is_some() || key == "$ref";
    !properties.iter().any(|property| special(property.key)) && !has_repeated_key(properties)
}

fn has_repeated_key(properties: &[Property<'_>]) -> bool {
    if properties.len() <= FEW {
        let repeats = |(n, one): (usize, &Property<'_>)| properties[..n].iter().any(|other| other.key == one.key);
        return properties.iter().enumerate().any(repeats);
    }
    let mut keys: Vec<_> = properties.iter().map(|property| property.key).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// Appends the properties in JavaScript's order; `written` holds them in the document's.
fn rewrite(document: &RawDocument, properties: &[Property<'_>], written: &[u8], out: &mut Vec<u8>) {
    let reference = DbRef::of(document);
    let mut values = last_values(properties, written.len());
    values.sort_by_key(|(key, _)| rank(key, reference.is_some()));
    for (key, range) in values {
        match (&reference, key) {
            (Some(reference), "$ref") => append_member(key, reference.collection, out),
            // `$db` is written below; `__proto__` gets lost where the driver copies a DBRef's fields.
            (Some(_), "$db" | "__proto__") => {}
            _ => out.extend_from_slice(&written[range]),
        }
    }
    if let Some(database) = reference.and_then(|reference| reference.database) {
        append_member("$db", database, out);
    }
}

fn append_member(key: &str, text: &str, out: &mut Vec<u8>) {
    append_key(key, out);
    append_string(text, out);
    out.push(b',');
}

/// Each key once, in the order of first appearance, with the range of its last value in what was written.
fn last_values<'doc>(properties: &[Property<'doc>], written: usize) -> Vec<(&'doc str, Range<usize>)> {
    let base = properties[0].start;
    let ends = properties.iter().skip(1).map(|next| next.start - base).chain([written]);
    let mut indexes: HashMap<&str, usize> = HashMap::with_capacity(properties.len());
    let mut values: Vec<(&str, Range<usize>)> = Vec::with_capacity(properties.len());
    for (property, end) in properties.iter().zip(ends) {
        let range = property.start - base..end;
        let index = *indexes.entry(property.key).or_insert(values.len());
        match values.get_mut(index) {
            Some((_, last)) => *last = range,
            None => values.push((property.key, range)),
        }
    }
    values
}

/// Sorts integer keys to the front by their number, and a DBRef's own fields before its others. The sort is stable.
fn rank(key: &str, in_reference: bool) -> (u8, u32) {
    match (array_index(key), key) {
        (Some(index), _) => (0, index),
        (None, "$ref") if in_reference => (1, 0),
        (None, "$id") if in_reference => (2, 0),
        _ => (3, 0),
    }
}

/// The number of a key that is an array index in JavaScript: 0 to 2^32 - 2 without leading zeros or sign (ECMA-262).
fn array_index(key: &str) -> Option<u32> {
    if !key.starts_with(|first: char| first.is_ascii_digit()) || (key.len() > 1 && key.starts_with('0')) {
        return None;
    }
    key.parse().ok().filter(|index| *index < u32::MAX)
}

/// A document that the driver turns into a DBRef.
struct DbRef<'doc> {
    collection: &'doc str,
    database: Option<&'doc str>,
}

impl<'doc> DbRef<'doc> {
    /// The driver's `isDBRefLike`: no other key begins with a dollar, `$ref` is text, `$id` is there, `$db` is text or absent.
    fn of(document: &'doc RawDocument) -> Option<Self> {
        let (mut collection, mut id, mut database) = (None, None, None);
        for (key, value) in document.iter().flatten() {
            match key.as_str() {
                "$ref" => collection = Some(value),
                "$id" => id = Some(value),
                "$db" => database = Some(value),
                key if key.starts_with('$') => return None,
                _ => {}
            }
        }
        id.filter(|id| !matches!(id, RawBsonRef::Null | RawBsonRef::Undefined))?;
        let given = match database {
            Some(value) => Some(text(value)?),
            None => None,
        };
        let (collection, database) = split_namespace(text(collection?)?);
        Some(Self {
            collection,
            database: database.or(given),
        })
    }
}

fn text(value: RawBsonRef<'_>) -> Option<&str> {
    value.as_str().or_else(|| value.as_symbol())
}

/// Collection and database of a DBRef's namespace: the driver takes a name with exactly one dot for `database.collection`.
pub(super) fn split_namespace(namespace: &str) -> (&str, Option<&str>) {
    match namespace.split_once('.') {
        Some((database, collection)) if !collection.contains('.') => (collection, Some(database)),
        _ => (namespace, None),
    }
}
