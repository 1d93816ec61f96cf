//! Every BSON type that holds no other, each as its class's `toJSON` in the npm package `bson` prints it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::spec::BinarySubtype;
use bson::{RawBinaryRef, RawBson, RawBsonRef, RawDbPointerRef};

use super::{date, order};

/// Longs up to this distance from zero become numbers (the package's `JS_INT_MAX`: not 2^53 - 1).
const JS_INT_MAX: u64 = 1 << 53;

/// Appends a value that is no document, array or code with scope.
pub(super) fn append_scalar(value: RawBsonRef<'_>, out: &mut Vec<u8>) {
    match value {
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => append_string(text, out),
        RawBsonRef::ObjectId(id) => append_quoted(|out| append_hex(&id.bytes(), out), out),
        RawBsonRef::DateTime(date) => date::append_date(date.timestamp_millis(), out),
        RawBsonRef::Boolean(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        RawBsonRef::Int32(n) => append_integer(n, out),
        RawBsonRef::Int64(n) => append_long(n, out),
        RawBsonRef::Double(n) => append_double(n, out),
        RawBsonRef::Binary(binary) => append_binary(binary, out),
        RawBsonRef::Decimal128(n) => append_wrapped("$numberDecimal", &n.to_string(), out),
        RawBsonRef::Timestamp(t) => {
            let number = u64::from(t.time) << 32 | u64::from(t.increment);
            append_wrapped("$timestamp", itoa::Buffer::new().format(number), out);
        }
        RawBsonRef::JavaScriptCode(code) => append_wrapped("code", code, out),
        RawBsonRef::DbPointer(pointer) => append_db_pointer(pointer, out),
        RawBsonRef::RegularExpression(_) | RawBsonRef::MinKey | RawBsonRef::MaxKey => out.extend_from_slice(b"{}"),
        _ => out.extend_from_slice(b"null"),
    }
}

/// Appends `text` in quotes, escaped as `JSON.stringify` does: quote, backslash and control characters, nothing else.
pub(super) fn append_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string always has JSON, and memory takes it");
}

/// Appends `"key":`.
pub(super) fn append_key(key: &str, out: &mut Vec<u8>) {
    append_string(key, out);
    out.push(b':');
}

fn append_wrapped(key: &str, text: &str, out: &mut Vec<u8>) {
    out.push(b'{');
    append_key(key, out);
    append_string(text, out);
    out.push(b'}');
}

fn append_integer(n: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn append_long(n: i64, out: &mut Vec<u8>) {
    if n.unsigned_abs() <= JS_INT_MAX {
        return append_integer(n, out);
    }
    // What JSON.stringify finds in a Long: its two halves, both signed.
    out.extend_from_slice(b"{\"low\":");
    append_integer(n as i32, out);
    out.extend_from_slice(b",\"high\":");
    append_integer((n >> 32) as i32, out);
    out.extend_from_slice(b",\"unsigned\":false}");
}

fn append_double(n: f64, out: &mut Vec<u8>) {
    if n.is_finite() {
        out.extend_from_slice(ryu_js::Buffer::new().format_finite(n).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Base64 whatever the subtype, except that 16 bytes of subtype 4 are a UUID.
fn append_binary(binary: RawBinaryRef<'_>, out: &mut Vec<u8>) {
    if binary.subtype == BinarySubtype::Uuid && binary.bytes.len() == 16 {
        return append_quoted(|out| append_uuid(binary.bytes, out), out);
    }
    append_quoted(|out| out.extend_from_slice(BASE64.encode(binary.bytes).as_bytes()), out);
}

fn append_uuid(bytes: &[u8], out: &mut Vec<u8>) {
    for (position, byte) in bytes.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        append_hex(&[*byte], out);
    }
}

fn append_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn append_quoted(content: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.push(b'"');
    content(out);
    out.push(b'"');
}

/// The driver makes a DBRef of the deprecated DBPointer.
fn append_db_pointer(pointer: RawDbPointerRef<'_>, out: &mut Vec<u8>) {
    // The crate keeps a DBPointer's parts to itself, so they are read from its bytes: a document of one field with the key
    // "p" is length (4), type (1), key (2), then the namespace's length (4), the namespace, its NUL, and the id (12).
    let mut holder = bson::RawDocumentBuf::new();
    holder.append(bson::cstr!("p"), RawBson::from(RawBsonRef::DbPointer(pointer)));
    let value = &holder.as_bytes()[11..holder.as_bytes().len() - 1];
    let (namespace, id) = value.split_at(value.len() - 12);
    let namespace = String::from_utf8_lossy(&namespace[..namespace.len() - 1]);
    let (collection, database) = order::split_namespace(&namespace);
    out.extend_from_slice(b"{\"$ref\":");
    append_string(collection, out);
    out.extend_from_slice(b",\"$id\":");
    append_quoted(|out| append_hex(id, out), out);
    if let Some(database) = database {
        out.extend_from_slice(b",\"$db\":");
        append_string(database, out);
    }
    out.push(b'}');
}
