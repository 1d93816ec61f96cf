//! The `_id` of a document of `memberconfigs`: compared as MongoDB does, so that of two the lower is the same everywhere.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bson::{Bson, RawBson, RawBsonRef, RawDocument};

use crate::model::{id_part, key_part};

/// This many characters are shown of an `_id` that is a string.
const SHOWN: usize = 60;

/// The `_id` of a document.
#[derive(Clone, Debug)]
pub struct DocumentId(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    value: RawBson,
    /// The same for ids that MongoDB takes for equal.
    text: String,
}

impl From<RawBson> for DocumentId {
    fn from(value: RawBson) -> Self {
        let id = value.as_raw_bson_ref();
        let is_number = matches!(id, RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Double(_));
        let text = if is_number { id_part(id) } else { key_part(id) };
        Self(Arc::new(Inner { value, text }))
    }
}

impl From<String> for DocumentId {
    fn from(id: String) -> Self {
        RawBson::String(id).into()
    }
}

impl DocumentId {
    /// The `_id` of a document.
    pub(super) fn of(document: &RawDocument) -> Self {
        let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
        RawBson::from(id).into()
    }

    /// As a filter takes it; `None` if it is not valid BSON.
    pub(super) fn to_bson(&self) -> Option<Bson> {
        Bson::try_from(self.0.value.clone()).ok()
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.value {
            RawBson::String(text) => write!(f, "{}", text.chars().take(SHOWN).collect::<String>().escape_debug()),
            RawBson::Int32(n) => write!(f, "{n}"),
            RawBson::Int64(n) => write!(f, "{n}"),
            RawBson::Double(n) => write!(f, "{n}"),
            _ => f.write_str(&self.0.text),
        }
    }
}

impl PartialEq for DocumentId {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for DocumentId {}

impl Hash for DocumentId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl Ord for DocumentId {
    fn cmp(&self, other: &Self) -> Ordering {
        if self == other {
            return Ordering::Equal;
        }
        let by_value = compare(self.0.value.as_raw_bson_ref(), other.0.value.as_raw_bson_ref());
        by_value.then_with(|| self.0.text.cmp(&other.0.text))
    }
}

impl PartialOrd for DocumentId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// MongoDB's order of values (manual: Comparison/Sort Order). Types that can't be an `_id`, or differ in nothing but rare
/// details, are equal here.
fn compare(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    use RawBsonRef as R;
    match (a, b) {
        (R::Int32(a), b) => compare(R::Int64(a.into()), b),
        (a, R::Int32(b)) => compare(a, R::Int64(b.into())),
        (R::Int64(a), R::Int64(b)) => a.cmp(&b),
        (R::Int64(a), R::Double(b)) => compare_mixed(a, b),
        (R::Double(a), R::Int64(b)) => compare_mixed(b, a).reverse(),
        (R::Double(a), R::Double(b)) => compare_doubles(a, b),
        (R::String(a) | R::Symbol(a), R::String(b) | R::Symbol(b)) => a.cmp(b),
        (R::ObjectId(a), R::ObjectId(b)) => a.cmp(&b),
        (R::Boolean(a), R::Boolean(b)) => a.cmp(&b),
        (R::DateTime(a), R::DateTime(b)) => a.cmp(&b),
        (R::Timestamp(a), R::Timestamp(b)) => (a.time, a.increment).cmp(&(b.time, b.increment)),
        (R::Binary(a), R::Binary(b)) => {
            let key = |binary: bson::RawBinaryRef<'_>| (binary.bytes.len(), u8::from(binary.subtype));
            key(a).cmp(&key(b)).then_with(|| a.bytes.cmp(b.bytes))
        }
        (R::Document(a), R::Document(b)) => compare_documents(a, b),
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Field by field: type, name, value.
fn compare_documents(a: &RawDocument, b: &RawDocument) -> Ordering {
    let (mut a, mut b) = (a.iter().flatten(), b.iter().flatten());
    loop {
        match (a.next(), b.next()) {
            (Some((a_name, a)), Some((b_name, b))) => {
                let order = rank(a).cmp(&rank(b));
                let order = order.then_with(|| a_name.as_str().cmp(b_name.as_str()));
                let order = order.then_with(|| compare(a, b));
                if order.is_ne() {
                    return order;
                }
            }
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

/// NaN is the lowest.
fn compare_doubles(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// Exactly: not every Int64 is a Double.
fn compare_mixed(a: i64, b: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if b.is_nan() || b < -LIMIT {
        return Ordering::Greater;
    }
    if b >= LIMIT {
        return Ordering::Less;
    }
    a.cmp(&(b.trunc() as i64)).then_with(|| compare_doubles(0.0, b.fract()))
}

fn rank(value: RawBsonRef<'_>) -> u8 {
    use RawBsonRef as R;
    match value {
        R::MinKey => 0,
        R::Null | R::Undefined => 1,
        R::Int32(_) | R::Int64(_) | R::Double(_) | R::Decimal128(_) => 2,
        R::String(_) | R::Symbol(_) => 3,
        R::Document(_) => 4,
        R::Array(_) => 5,
        R::Binary(_) => 6,
        R::ObjectId(_) => 7,
        R::Boolean(_) => 8,
        R::DateTime(_) => 9,
        R::Timestamp(_) => 10,
        R::RegularExpression(_) => 11,
        R::MaxKey => 13,
        _ => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::oid::ObjectId;
    use bson::{DateTime, rawdoc};

    #[test]
    fn ids_are_in_the_order_of_mongodb() {
        let ids: Vec<RawBson> = vec![
            RawBson::MinKey,
            RawBson::Null,
            f64::NAN.into(),
            f64::NEG_INFINITY.into(),
            (-2).into(),
            1.into(),
            1.5.into(),
            2_i64.into(),
            9_007_199_254_740_992.0.into(),
            9_007_199_254_740_993_i64.into(),
            i64::MAX.into(),
            9.3e18.into(),
            "a".into(),
            "aa".into(),
            "b".into(),
            rawdoc! { "a": 2 }.into(),
            rawdoc! { "b": 1 }.into(),
            rawdoc! { "b": 1, "c": 0 }.into(),
            rawdoc! { "a": "" }.into(),
            ObjectId::from_bytes([1; 12]).into(),
            ObjectId::from_bytes([2; 12]).into(),
            false.into(),
            true.into(),
            DateTime::from_millis(-1).into(),
            DateTime::from_millis(1).into(),
            RawBson::MaxKey,
        ];
        let ids: Vec<DocumentId> = ids.into_iter().map(Into::into).collect();
        for (low, one) in ids.iter().enumerate() {
            for (high, other) in ids.iter().enumerate() {
                assert_eq!(one.cmp(other), low.cmp(&high), "{one} and {other}");
            }
        }
    }

    #[test]
    fn one_number_of_two_types_is_one_id() {
        let ids = [RawBson::Int32(7), RawBson::Int64(7), RawBson::Double(7.0)].map(DocumentId::from);
        assert!(ids.iter().all(|id| *id == ids[0] && id.cmp(&ids[0]).is_eq()));
        let hex = ObjectId::from_bytes([1; 12]).to_hex();
        let texts = [
            DocumentId::from(hex),
            RawBson::ObjectId(ObjectId::from_bytes([1; 12])).into(),
        ];
        assert_ne!(texts[0], texts[1], "two documents");
    }
}
