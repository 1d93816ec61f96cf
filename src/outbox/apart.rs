//! A delivery that leaves its batch, and becomes a document of its own.

use bson::{DateTime, RawArrayBuf, RawBson, RawDocumentBuf, cstr, rawdoc};

use super::Class;
use super::document::{HISTORY, LAYOUT};
use crate::model::EndpointKey;
use crate::store::upsert_row;

/// What such a document says.
pub(super) struct Apart<'a> {
    pub(super) endpoint: &'a EndpointKey,
    /// The element of `deliveries`.
    pub(super) entry: RawDocumentBuf,
    pub(super) is_replay: bool,
    pub(super) created_at: RawBson,
    /// What became of the delivery.
    pub(super) set: RawDocumentBuf,
    /// Fields of an older copy that are no longer true.
    pub(super) unset: RawArrayBuf,
    /// Attempts, where `history` must be a list.
    pub(super) history: Option<RawArrayBuf>,
}

impl Apart<'_> {
    /// The row that writes the document with that `_id`. Where an older copy is there, its attempts are kept.
    pub(super) fn row(self, id: &str, now: DateTime) -> RawDocumentBuf {
        let mut fresh = rawdoc! {
            "v": LAYOUT, "endpoint": self.endpoint.as_str(), "queue": Class::Retry.queue(self.endpoint), "due": now,
            "open": 1, "deliveries": [self.entry], "results": RawArrayBuf::new(),
        };
        if self.is_replay {
            fresh.append(cstr!("replay"), true);
        }
        // Whatever is there in the place of a version or a history.
        let version =
            rawdoc! { "$cond": [{ "$eq": [{ "$type": "$version" }, "int"] }, { "$add": ["$version", 1] }, 1] };
        let mut kept = rawdoc! { "version": version, "createdAt": { "$ifNull": ["$createdAt", self.created_at] } };
        if let Some(history) = self.history {
            let before = rawdoc! { "$cond": [{ "$isArray": "$history" }, "$history", []] };
            let all = rawdoc! { "$concatArrays": [before, { "$literal": history }] };
            kept.append(cstr!("history"), rawdoc! { "$slice": [all, -HISTORY] });
        }
        let merged = rawdoc! { "$mergeObjects": ["$$ROOT", { "$literal": fresh }, { "$literal": self.set }, kept] };
        let mut update = RawArrayBuf::new();
        update.push(rawdoc! { "$replaceWith": merged });
        if !self.unset.is_empty() {
            update.push(rawdoc! { "$unset": self.unset });
        }
        upsert_row(rawdoc! { "_id": id }, update)
    }
}
