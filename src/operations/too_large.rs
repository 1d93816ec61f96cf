//! Operations whose documents are too large to be written to.

use bson::{Bson, Document, RawDocumentBuf, doc};

use super::document::Refusal;

/// An operation takes some hundred bytes. MongoDB takes no document of more than 16 MB: to one that nearly has as much nothing can be
/// added, not even that it is refused.
const LARGEST: usize = 1 << 20;

/// What an instance writes itself: how far a backfill has come is the `_id` of a certificate, which may be large.
const OWN: [&str; 2] = ["progress", "result"];

/// With that.
const LARGEST_WITH_OWN: usize = 15 << 20;

/// What is kept of one that is refused, each as far as it is no larger than this.
const KEPT: [&str; 7] = ["kind", "selection", "options", "by", "reason", "at", "cancel"];
const LARGEST_FIELD: usize = 16 << 10;

pub(super) struct TooLarge {
    pub(super) why: Refusal,
    /// What takes the document's place, without its `_id`.
    pub(super) kept: Document,
}

impl TooLarge {
    pub(super) fn of(document: &Document) -> Option<Self> {
        let whole = size(document);
        let own: usize = OWN
            .iter()
            .map(|name| document.get(name).map_or(0, |value| size_of(name, value)))
            .sum();
        let (size, most) = match whole.saturating_sub(own) {
            size if size > LARGEST => (size, LARGEST),
            _ if whole > LARGEST_WITH_OWN => (whole, LARGEST_WITH_OWN),
            _ => return None,
        };
        let is_small = |name: &str, value: &Bson| size_of(name, value) <= LARGEST_FIELD;
        let kept = KEPT.iter().filter_map(|name| Some((*name, document.get(name)?)));
        let kept: Document = kept
            .filter(|(name, value)| is_small(name, value))
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        let is_meant = |name: &str| most != LARGEST || !OWN.contains(&name);
        let fields = document.iter().filter(|(name, _)| is_meant(name));
        let largest = fields.max_by_key(|(name, value)| size_of(name, value));
        let largest = largest.map_or_else(String::new, |(name, _)| super::fields::shown(name));
        let why = format!(
            "the document: expected at most {most} bytes, found {size}, most of them in `{largest}`; what is large was dropped"
        );
        Some(Self { why, kept })
    }
}

fn size_of(name: &str, value: &Bson) -> usize {
    size(&doc! { name: value.clone() })
}

/// One that can't be encoded came from no database.
fn size(document: &Document) -> usize {
    RawDocumentBuf::try_from(document).map_or(0, |raw| raw.as_bytes().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_is_dropped_and_named() {
        let large = || "x".repeat(2 << 20);
        let many: Document = (0..200_000).map(|n| (n.to_string(), Bson::Null)).collect();
        let table = [
            (
                doc! { "selection": large(), "by": "jane" },
                "selection",
                vec!["kind", "by"],
            ),
            (doc! { "selection": { "endpoint": large() } }, "selection", vec!["kind"]),
            (
                doc! { "by": large(), "selection": { "all": true } },
                "by",
                vec!["kind", "selection"],
            ),
            (
                doc! { "comment": large(), "cancel": true },
                "comment",
                vec!["kind", "cancel"],
            ),
            (doc! { "options": many }, "options", vec!["kind"]),
        ];
        for (fields, largest, kept) in table {
            let mut document = doc! { "_id": 1, "kind": "hold" };
            document.extend(fields);
            let refused = TooLarge::of(&document).unwrap();
            assert!(
                refused.why.contains(&format!("most of them in `{largest}`")),
                "{}",
                refused.why
            );
            assert_eq!(refused.kept.keys().collect::<Vec<_>>(), kept, "{largest}");
        }
        assert!(TooLarge::of(&doc! { "kind": "hold", "reason": "x".repeat(2_000) }).is_none());
    }

    #[test]
    fn what_an_instance_has_written_is_no_reason_to_refuse_as_long_as_more_can_be_added() {
        let text = |megabytes: usize| "x".repeat(megabytes << 20);
        let after = |megabytes| doc! { "done": 7_i64, "after": text(megabytes) };
        // The document, and the field that is named where it is refused.
        let table = [
            (doc! { "state": "running", "progress": after(2) }, None),
            (doc! { "state": "running", "progress": after(14) }, None),
            (doc! { "result": { "firstRefused": text(2) } }, None),
            (doc! { "state": "running", "progress": after(16) }, Some("progress")),
            (doc! { "progress": after(9), "result": text(8) }, Some("progress")),
            (doc! { "progress": after(3), "comment": text(2) }, Some("comment")),
        ];
        for (fields, refused) in table {
            let mut document = doc! { "_id": 1, "kind": "backfill" };
            document.extend(fields);
            let why = TooLarge::of(&document).map(|refused| refused.why);
            match refused {
                None => assert_eq!(why, None),
                Some(field) => assert!(why.unwrap().contains(&format!("most of them in `{field}`"))),
            }
        }
    }
}
