//! Write commands by hand: one `insert` or `update` for hundreds of rows that differ.
//!
//! The driver's `bulk_write` needs MongoDB 8, and 6.0 must work; its `insert_many` serializes what is BSON already.

use std::iter::{from_fn, once};

use bson::raw::CStr;
use bson::{Bson, Document, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, cstr, rawdoc};

use super::{Error, Result, RowError};

/// A command is a document itself: MongoDB takes 16 MB and 16 KB, so that one row of 16 MB fits. Several rows stay below half of it.
const COMMAND_BYTES: usize = 8 << 20;

/// MongoDB takes 100,000.
const COMMAND_ROWS: usize = 50_000;

/// What the rows of an `update` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteReply {
    /// Documents that a filter matched, and documents that were inserted.
    pub matched: usize,
    /// Documents that differ from what they were before, and documents that were inserted.
    pub changed: usize,
    /// Documents that were inserted.
    pub inserted: usize,
}

/// What MongoDB replied to a write command.
pub(super) struct CommandReply {
    pub(super) written: WriteReply,
    /// Rows that were refused, by their index among all.
    pub(super) refused: Vec<RowError>,
}

/// A command with some of the rows, and the index of its first row among all.
pub(super) struct Command {
    pub(super) first: usize,
    pub(super) body: RawDocumentBuf,
}

/// One row of an `update`: `update` is a document, or an array for a pipeline.
pub fn update_row(filter: RawDocumentBuf, update: impl Into<RawBson>, multi: bool) -> RawDocumentBuf {
    rawdoc! { "q": filter, "u": update.into(), "multi": multi }
}

/// One row of an `update` that inserts a document where the filter matches none.
pub fn upsert_row(filter: RawDocumentBuf, update: impl Into<RawBson>) -> RawDocumentBuf {
    rawdoc! { "q": filter, "u": update.into(), "upsert": true }
}

/// For a pipeline: the number in `field` plus `by`; `otherwise` where there is no whole number.
pub fn increased(field: &str, by: i64, otherwise: impl Into<RawBson>) -> RawDocumentBuf {
    let value = format!("${field}");
    let is_whole = rawdoc! { "$in": [{ "$type": value.as_str() }, ["int", "long"]] };
    let increased = rawdoc! { "$add": [value.as_str(), by] };
    let otherwise: RawBson = otherwise.into();
    rawdoc! { "$cond": [is_whole, increased, otherwise] }
}

/// For a pipeline: the list in `field` followed by `element`, `most` of them at most; `element` alone where there is no list.
pub fn extended(field: &str, element: RawDocumentBuf, most: i32) -> RawDocumentBuf {
    let value = format!("${field}");
    let list = rawdoc! { "$cond": [{ "$isArray": value.as_str() }, value.as_str(), []] };
    rawdoc! { "$slice": [{ "$concatArrays": [list, [element]] }, -most] }
}

/// One row of an `update` that inserts `document` unless its `_id` is there.
///
/// # Errors
/// A document that is no BSON.
pub fn insert_if_absent(document: &RawDocument) -> Result<RawDocumentBuf> {
    let (mut filter, mut rest) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    for field in document {
        let (name, value) = field?;
        let target = if name == "_id" { &mut filter } else { &mut rest };
        target.append(name, RawBson::from(value));
    }
    Ok(upsert_row(filter, rawdoc! { "$setOnInsert": rest }))
}

/// An `insert` of all rows, unordered, in as many commands as it takes.
pub(super) fn inserts<'a>(
    collection: &str,
    rows: impl Iterator<Item = &'a RawDocumentBuf>,
) -> impl Iterator<Item = Command> {
    commands(cstr!("insert"), cstr!("documents"), collection, rows)
}

/// An `update` by all rows, unordered, in as many commands as it takes.
pub(super) fn updates<'a>(
    collection: &str,
    rows: impl Iterator<Item = &'a RawDocumentBuf>,
) -> impl Iterator<Item = Command> {
    commands(cstr!("update"), cstr!("updates"), collection, rows)
}

fn commands<'a>(
    name: &'static CStr,
    list: &'static CStr,
    collection: &str,
    rows: impl Iterator<Item = &'a RawDocumentBuf>,
) -> impl Iterator<Item = Command> {
    let mut rows = rows.enumerate().peekable();
    from_fn(move || {
        let (first, row) = rows.next()?;
        let mut size = row.as_bytes().len();
        let mut fits = |index: usize, row: &RawDocumentBuf| {
            size += row.as_bytes().len();
            size <= COMMAND_BYTES && index - first < COMMAND_ROWS
        };
        let more = from_fn(|| rows.next_if(|(index, row)| fits(*index, row)).map(|(_, row)| row));
        let array: RawArrayBuf = once(row).chain(more).cloned().collect();
        let mut body = RawDocumentBuf::new();
        body.append(name, collection);
        body.append(cstr!("ordered"), false);
        body.append(list, array);
        Some(Command { first, body })
    })
}

/// Reads MongoDB's reply to a write command whose first row has that index among all.
///
/// # Errors
/// A majority did not confirm the write.
pub(super) fn parse(reply: &Document, first: usize) -> Result<CommandReply> {
    if let Ok(concern) = reply.get_document("writeConcernError") {
        let text = concern.get_str("errmsg").unwrap_or("for no given reason");
        let code = concern.get_i32("code").ok();
        return Err(Error::unconfirmed(format!("the write was not confirmed: {text}"), code));
    }
    let number = |document: &Document, field| document.get_i32(field).ok().and_then(|n| usize::try_from(n).ok());
    let rows = reply.get_array("writeErrors").into_iter().flatten();
    let error = |row: &Document| {
        Some(RowError {
            index: first + number(row, "index")?,
            code: row.get_i32("code").ok()?,
        })
    };
    let inserted = reply.get_array("upserted").map_or(0, Vec::len);
    Ok(CommandReply {
        written: WriteReply {
            matched: number(reply, "n").unwrap_or(0),
            changed: number(reply, "nModified").unwrap_or(0) + inserted,
            inserted,
        },
        refused: rows.filter_map(Bson::as_document).filter_map(error).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_commands_that_mongodb_takes() {
        let row = |bytes: usize| rawdoc! { "text": "x".repeat(bytes) };
        for (sizes, firsts) in [
            (vec![], vec![]),
            (vec![1, 1, 1], vec![0]),
            (vec![5 << 20, 5 << 20, 5 << 20], vec![0, 1, 2]),
            (vec![1, (16 << 20) - 100, 1, 1], vec![0, 1, 2]),
            (vec![3 << 20, 3 << 20, 3 << 20, 3 << 20], vec![0, 2]),
            (vec![1; COMMAND_ROWS + 1], vec![0, COMMAND_ROWS]),
        ] {
            let rows: Vec<_> = sizes.iter().map(|size| row(*size)).collect();
            let commands: Vec<_> = inserts("c", rows.iter()).collect();
            assert_eq!(commands.iter().map(|command| command.first).collect::<Vec<_>>(), firsts);
            let inserted: usize = commands
                .iter()
                .map(|command| command.body.get_array("documents").unwrap().into_iter().count())
                .sum();
            assert_eq!(inserted, sizes.len());
        }
    }
}
