//! Changing a document only if nobody else has since it was read: every write compares its version and raises it.

use bson::{RawBson, RawDocument, RawDocumentBuf, cstr, rawdoc};
use tracing::warn;

use crate::model::EndpointKey;
use crate::store::update_row;

/// A row that changes a document if nobody else has since it was read, and raises its version. What is in the place of a
/// version is compared as it is, and written anew.
pub(super) fn compared_row(document: &RawDocument, mut set: RawDocumentBuf, unset: RawDocumentBuf) -> RawDocumentBuf {
    let mut update = rawdoc! { "$unset": unset };
    let version = raw(document, "version");
    if is_version(&version) {
        update.append(cstr!("$inc"), rawdoc! { "version": 1 });
    } else {
        set.append(cstr!("version"), 1);
    }
    update.append(cstr!("$set"), set);
    let filter = rawdoc! { "_id": raw(document, "_id"), "version": { "$eq": version } };
    update_row(filter, update, false)
}

/// Tells of documents whose version was written anew.
pub(super) fn tell_of_versions<'a>(endpoint: &EndpointKey, documents: impl IntoIterator<Item = &'a RawDocumentBuf>) {
    let odd = |document: &&RawDocumentBuf| !is_version(&raw(document, "version"));
    let documents = documents.into_iter().filter(odd).count();
    if documents > 0 {
        warn!(
            %endpoint,
            documents, "somebody else writes to the outbox: a `version` that was not an Int32 was written anew"
        );
    }
}

fn is_version(version: &RawBson) -> bool {
    matches!(version, RawBson::Int32(_))
}

/// A field of a document, null where it is not there.
pub(super) fn raw(document: &RawDocument, field: &str) -> RawBson {
    document.get(field).ok().flatten().map_or(RawBson::Null, RawBson::from)
}
