use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};
use proptest::prelude::*;

use super::*;

/// One line of `vectors.jsonl`, on which the Node driver's versions 6 and 7 agree.
#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    bson: String,
    /// `None` where the driver throws.
    json: Option<String>,
}

/// One line of `differing.jsonl`, on which they don't.
#[derive(serde::Deserialize)]
struct Differing {
    name: String,
    bson: String,
    driver6: Option<String>,
    driver7: Option<String>,
}

fn text_of(document: &RawDocument) -> Result<String, JsonError> {
    to_json(document).map(|json| String::from_utf8(json.to_vec()).unwrap())
}

/// The lines of that file, or of the one that makes a longer comparison: make.mjs says how.
fn lines_of<T: serde::de::DeserializeOwned>(file: &str) -> Vec<T> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/json/").to_owned();
    let prefix = std::env::var("JSON_VECTORS").unwrap_or(folder);
    let text = fs::read_to_string(format!("{prefix}{file}")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is wrong with what comes of `bson`, if anything is.
fn difference(name: &str, bson: &str, expected: Option<&String>) -> Option<String> {
    let bytes = BASE64.decode(bson).unwrap();
    let got = text_of(RawDocument::from_bytes(&bytes).unwrap());
    (got.as_ref().ok() != expected).then(|| format!("{name}\n     got {got:?}\nexpected {expected:?}"))
}

#[test]
fn every_vector_of_the_node_driver_comes_out_byte_for_byte() {
    let vectors: Vec<Vector> = lines_of("vectors.jsonl");
    assert!(vectors.len() > 300);
    let differing: Vec<_> = vectors
        .iter()
        .filter_map(|vector| difference(&vector.name, &vector.bson, vector.json.as_ref()))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn where_the_drivers_differ_version_6_is_the_reference() {
    let vectors: Vec<Differing> = lines_of("differing.jsonl");
    assert!(vectors.len() > 50);
    let differing: Vec<_> = vectors
        .iter()
        .filter_map(|vector| difference(&vector.name, &vector.bson, vector.driver6.as_ref()))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// So that nothing else parts the two unnoticed.
#[test]
fn the_drivers_differ_in_the_halves_of_a_long_and_in_what_looks_like_a_dbref_in_a_scope() {
    let in_scope = ["a dbref in a scope"];
    for Differing {
        name, driver6, driver7, ..
    } in lines_of("differing.jsonl")
    {
        let (by6, by7) = (driver6.unwrap(), driver7.unwrap());
        assert_eq!(low_first(&by7) == by6, !in_scope.contains(&&*name), "{name}");
    }
}

/// Puts `low` before `high`.
fn low_first(json: &str) -> String {
    let mut pieces = json.split("{\"high\":");
    let mut swapped = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (high, rest) = piece.split_once(",\"low\":").unwrap();
        let (low, rest) = rest.split_once(',').unwrap();
        swapped += &format!("{{\"low\":{low},\"high\":{high},{rest}");
    }
    swapped
}

#[test]
fn an_error_names_the_field_and_leaves_the_output_as_it_was() {
    let bad_text = b"\x02\x31\x00\x03\x00\x00\x00\xc3\x28\x00";
    let array = raw(&[b"\x0a0\0", bad_text.as_slice()].concat());
    let document = raw(&[b"\x10n\0\x01\0\0\0\x04a\nb\0".as_slice(), &array].concat());
    let mut out = b"kept".to_vec();
    let error = append_json(RawDocument::from_bytes(&document).unwrap(), &mut out).unwrap_err();
    assert_eq!(error.to_string(), r"field `a\nb.1` holds text that is not UTF-8");
    assert_eq!(out, b"kept");
}

#[test]
fn broken_structure_is_an_error() {
    let error = text_of(RawDocument::from_bytes(&raw(b"\x02a\0\xff\0\0\0x\0")).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the document is not valid BSON");
}

#[test]
fn depth_is_bounded_on_a_small_stack() {
    let checks = || {
        for wrap in [in_document, in_array] {
            assert!(to_json(&nested(MAX_DEPTH, wrap)).is_ok());
            for depth in [MAX_DEPTH + 1, 5_000] {
                assert_eq!(to_json(&nested(depth, wrap)).unwrap_err().fault, JsonFault::TooDeep);
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(checks)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn time_grows_with_the_size_alone_when_every_level_is_reordered() {
    let mut document = rawdoc! { "b": 1, "0": 2, "b": 3 };
    for _ in 1..MAX_DEPTH {
        document = rawdoc! { "x": 1, "0": document, "x": 2 };
    }
    assert!(text_of(&document).unwrap().starts_with(r#"{"0":{"0":"#));
}

/// A document of these elements' bytes.
fn raw(elements: &[u8]) -> Vec<u8> {
    let length = i32::try_from(elements.len() + 5).unwrap();
    [&length.to_le_bytes(), elements, &[0]].concat()
}

fn nested(levels: usize, wrap: fn(RawDocumentBuf) -> RawDocumentBuf) -> RawDocumentBuf {
    (1..levels).fold(rawdoc! {}, |document, _| wrap(document))
}

fn in_document(document: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "a": document }
}

/// A document is used for an array: BSON gives both the same bytes.
fn in_array(document: RawDocumentBuf) -> RawDocumentBuf {
    let mut bytes = vec![4, b'0', 0];
    bytes.extend_from_slice(document.as_bytes());
    RawDocumentBuf::from_bytes(raw(&bytes)).unwrap()
}

fn any_scalar() -> impl Strategy<Value = Bson> {
    prop_oneof![
        any::<f64>().prop_map(Bson::Double),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<bool>().prop_map(Bson::Boolean),
        any::<String>().prop_map(Bson::String),
        any::<String>().prop_map(Bson::Symbol),
        any::<String>().prop_map(Bson::JavaScriptCode),
        any::<i64>().prop_map(|millis| bson::DateTime::from_millis(millis).into()),
        any::<[u8; 12]>().prop_map(|bytes| bson::oid::ObjectId::from_bytes(bytes).into()),
        any::<[u8; 16]>().prop_map(|bytes| bson::Decimal128::from_bytes(bytes).into()),
        (any::<u8>(), any::<Vec<u8>>()).prop_map(|(subtype, bytes)| bson::Binary {
            subtype: subtype.into(),
            bytes
        }
        .into()),
        Just(Bson::Null),
        Just(Bson::Undefined),
        Just(Bson::MinKey),
    ]
}

fn any_bson() -> impl Strategy<Value = Bson> {
    any_scalar().prop_recursive(6, 60, 8, |inner| {
        let key = prop_oneof!["[a-c]", "[0-9]{1,2}", "\\$(ref|id|db)", "\\PC{0,5}"];
        let fields = prop::collection::vec((key, inner.clone()), 0..8);
        prop_oneof![
            fields.prop_map(|fields| fields.into_iter().collect::<Document>().into()),
            prop::collection::vec(inner, 0..8).prop_map(Bson::Array),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_comes_out_as_json_with_its_keys(value in any_bson()) {
        let document = RawDocumentBuf::try_from(&doc! { "before": 1, "value": value, "after": 2 }).unwrap();
        let json = text_of(&document).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(parsed["before"].as_i64(), Some(1));
        prop_assert_eq!(parsed["after"].as_i64(), Some(2));
    }

    #[test]
    fn any_bytes_come_out_as_json_or_as_an_error(elements in prop::collection::vec(bson_like_byte(), 0..200)) {
        let bytes = raw(&elements);
        if let Ok(json) = text_of(RawDocument::from_bytes(&bytes).unwrap()) {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        }
    }
}

/// Bytes among which type tags, small lengths and terminators are frequent.
fn bson_like_byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0_u8), 4 => 0_u8..0x20, 1 => any::<u8>()]
}
