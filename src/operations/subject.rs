//! Whose payloads are erased: a user or a certificate, as it is in the outbox.

use bson::{Bson, Document, RawBson, RawBsonRef, rawdoc};

use super::document::{Refusal, empty};
use super::fields::mismatch;
use crate::model::key_part;
use crate::outbox::Subject;
use crate::platform::to_json;

/// The longest id that is looked for, in bytes.
const LONGEST_ID: usize = 1_000;

/// Reads a `selection` of exactly one of the two.
///
/// # Errors
/// The first thing that makes no sense.
pub(super) fn read(selection: &Document) -> Result<Subject, Refusal> {
    let given = |name| selection.get(name).filter(|value| !matches!(value, Bson::Null));
    match (given("user"), given("certificate")) {
        (Some(user), None) => id("user", user).map(|text| Subject::User(in_payloads(&text))),
        (None, Some(certificate)) => id("certificate", certificate).map(|text| Subject::Certificate(in_events(&text))),
        (Some(_), Some(_)) => Err("`selection`: expected `user` or `certificate`, found both".into()),
        (None, None) => Err(empty("a user or a certificate")),
    }
}

fn id(name: &str, value: &Bson) -> Result<String, Refusal> {
    match value {
        Bson::ObjectId(id) => Ok(id.to_hex()),
        Bson::String(text) if !text.is_empty() && text.len() <= LONGEST_ID => Ok(text.clone()),
        other => Err(mismatch(
            &format!("selection.{name}"),
            format!("an id as text of at most {LONGEST_ID} bytes, or as ObjectId"),
            Some(other),
        )),
    }
}

/// What a payload of that user holds, whatever the type of the id.
fn in_payloads(text: &str) -> Vec<String> {
    let json = |id: RawBson| {
        let printed = to_json(&rawdoc! { "_userId": id }).unwrap_or_default();
        let printed = String::from_utf8_lossy(&printed);
        // Without the braces.
        printed[1..printed.len() - 1].to_owned()
    };
    let mut held: Vec<String> = ids(text).into_iter().flat_map(|id| ends(json(id))).collect();
    held.sort_unstable();
    held.dedup();
    held
}

/// A number goes on until a comma or a brace.
fn ends(json: String) -> Vec<String> {
    match json.ends_with(|end: char| end.is_ascii_digit()) {
        true => vec![format!("{json},"), format!("{json}}}")],
        false => vec![json],
    }
}

/// How events of that certificate name it, whatever the type of the id.
fn in_events(text: &str) -> Vec<String> {
    let mut keys: Vec<String> = ids(text).iter().map(|id| key_part(id.as_raw_bson_ref())).collect();
    // As it is in the events' ids already.
    let is_hash = |rest: &str| rest.len() == 24 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    keys.extend(
        text.strip_prefix('h')
            .filter(|rest| is_hash(rest))
            .map(|_| text.to_owned()),
    );
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The ids that are written so: a text, an ObjectId, a number.
fn ids(text: &str) -> Vec<RawBson> {
    let mut ids: Vec<RawBson> = vec![RawBsonRef::String(text).into()];
    ids.extend(bson::oid::ObjectId::parse_str(text).map(RawBson::ObjectId));
    if let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite()) {
        ids.push(RawBson::Double(number));
    }
    if let Ok(number) = text.parse::<i64>() {
        ids.push(RawBson::Int64(number));
        ids.extend(i32::try_from(number).map(RawBson::Int32));
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use bson::oid::ObjectId;

    #[test]
    fn a_user_is_looked_for_as_payloads_print_the_id() {
        let hex = "6747000000000000000000ab";
        let oid = ObjectId::parse_str(hex).unwrap();
        let quoted = |id: &str| format!(r#""_userId":"{id}""#);
        for (user, expected) in [
            (Bson::ObjectId(oid), vec![quoted(hex)]),
            (Bson::from(hex), vec![quoted(hex)]),
            (
                Bson::from(hex.to_uppercase()),
                vec![quoted(&hex.to_uppercase()), quoted(hex)],
            ),
            (Bson::from("jane"), vec![quoted("jane")]),
            (Bson::from("a\"b\\c\n$x"), vec![quoted(r#"a\"b\\c\n$x"#)]),
            (
                Bson::from("7"),
                vec![quoted("7"), r#""_userId":7,"#.to_owned(), r#""_userId":7}"#.to_owned()],
            ),
            (
                Bson::from("9007199254740993"),
                vec![
                    quoted("9007199254740993"),
                    r#""_userId":9007199254740992,"#.to_owned(),
                    r#""_userId":9007199254740992}"#.to_owned(),
                    r#""_userId":{"low":1,"high":2097152,"unsigned":false}"#.to_owned(),
                ],
            ),
        ] {
            let Ok(Subject::User(held)) = read(&doc! { "user": user.clone() }) else {
                panic!("{user}")
            };
            assert_eq!(held, expected, "{user}");
        }
    }

    #[test]
    fn a_certificate_is_looked_for_as_events_name_it() {
        let hex = "6747000000000000000000ab";
        let hash = key_part(RawBsonRef::String("a/b"));
        for (certificate, expected) in [
            (Bson::from(hex), vec![hex.to_owned(), key_part(RawBsonRef::String(hex))]),
            (Bson::from("a/b"), vec![hash.clone()]),
            (
                Bson::from(hash.as_str()),
                vec![hash.clone(), key_part(RawBsonRef::String(&hash))],
            ),
            (
                Bson::from("7"),
                vec![
                    key_part(RawBsonRef::String("7")),
                    key_part(RawBsonRef::Double(7.0)),
                    key_part(RawBsonRef::Int64(7)),
                    key_part(RawBsonRef::Int32(7)),
                ],
            ),
        ] {
            let Ok(Subject::Certificate(keys)) = read(&doc! { "certificate": certificate.clone() }) else {
                panic!("{certificate}")
            };
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(keys, expected, "{certificate}");
        }
    }

    #[test]
    fn what_names_nobody_or_two_is_refused() {
        for selection in [
            doc! {},
            doc! { "user": "" },
            doc! { "user": 7 },
            doc! { "user": { "$ne": 1 } },
            doc! { "user": "x".repeat(2_000) },
            doc! { "certificate": ["a"] },
            doc! { "user": "a", "certificate": "b" },
        ] {
            assert!(read(&selection).is_err(), "{selection}");
        }
    }
}
