//! Write commands by hand: one `insert` or `update` for hundreds of rows that differ.
//!
//! The driver's `bulk_write` needs MongoDB 8, and 6.0 must work; its `insert_many` serializes what is BSON already.

use bson::{Bson, Document, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, rawdoc};
use mongodb::error::Error;

use super::{Result, Store};

/// What a write command did.
#[derive(Debug, Default)]
pub struct WriteReply {
    /// Documents inserted or matched.
    pub matched: usize,
    /// Documents changed or inserted by an update.
    pub changed: usize,
    /// Rows that were refused, by their place in the command.
    pub errors: Vec<RowError>,
}

/// A row that was refused.
#[derive(Clone, Debug)]
pub struct RowError {
    /// Its place in the command.
    pub index: usize,
    /// MongoDB's code.
    pub code: i32,
}

impl RowError {
    /// Whether the row was refused because its `_id` is there already.
    pub fn is_duplicate(&self) -> bool {
        self.code == 11000
    }
}

/// One row of an `update` command.
pub fn update_row(filter: RawDocumentBuf, update: RawDocumentBuf, multi: bool) -> RawDocumentBuf {
    rawdoc! { "q": filter, "u": update, "multi": multi }
}

/// One row of an `update` command that inserts `document` unless its `_id` is there.
pub(crate) fn insert_if_absent(document: &RawDocument) -> Result<RawDocumentBuf> {
    let (mut filter, mut rest) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    for field in document {
        let (name, value) = field.map_err(Error::custom)?;
        let target = if name == "_id" { &mut filter } else { &mut rest };
        target.append(name, RawBson::from(value));
    }
    Ok(rawdoc! { "q": filter, "u": { "$setOnInsert": rest }, "upsert": true })
}

/// An `insert` of all, unordered.
pub(super) fn insert<'a>(collection: &str, rows: impl Iterator<Item = &'a RawDocumentBuf>) -> RawDocumentBuf {
    let mut documents = RawArrayBuf::new();
    rows.for_each(|row| documents.push(row.clone()));
    rawdoc! { "insert": collection, "ordered": false, "documents": documents }
}

/// An `update` by these rows, unordered.
pub(super) fn update<'a>(collection: &str, rows: impl Iterator<Item = &'a RawDocumentBuf>) -> RawDocumentBuf {
    let mut updates = RawArrayBuf::new();
    rows.for_each(|row| updates.push(row.clone()));
    rawdoc! { "update": collection, "ordered": false, "updates": updates }
}

impl Store {
    /// Inserts all, unordered. A row that is there already is an entry in `errors`, not an error.
    ///
    /// # Errors
    /// MongoDB did not do it, or did not confirm it: repeat.
    pub(crate) async fn insert_rows<'a>(
        &self,
        collection: &str,
        rows: impl Iterator<Item = &'a RawDocumentBuf>,
    ) -> Result<WriteReply> {
        self.write(insert(collection, rows)).await
    }

    /// Runs the update rows one after the other: a row is in effect only if those before it are.
    ///
    /// # Errors
    /// MongoDB did not do it all, or did not confirm it: repeat.
    pub(crate) async fn update_in_order(&self, collection: &str, rows: &[RawDocumentBuf]) -> Result<WriteReply> {
        let updates: RawArrayBuf = rows.iter().cloned().collect();
        let reply = self
            .write(rawdoc! { "update": collection, "ordered": true, "updates": updates })
            .await?;
        match reply.errors.first() {
            Some(row) => Err(Error::custom(format!("a row was refused with code {}", row.code))),
            None => Ok(reply),
        }
    }

    pub(super) async fn write(&self, mut command: RawDocumentBuf) -> Result<WriteReply> {
        command.append(bson::cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true });
        let reply = self.database().run_raw_command(command).await?;
        parse(&reply)
    }
}

/// What the server answered to a write command.
pub(super) fn parse(reply: &Document) -> Result<WriteReply> {
    if let Some(concern) = reply.get("writeConcernError") {
        return Err(Error::custom(format!("the write was not confirmed: {concern}")));
    }
    let number = |document: &Document, field| document.get_i32(field).ok().and_then(|n| usize::try_from(n).ok());
    let rows = reply.get_array("writeErrors").into_iter().flatten();
    let error = |row: &Document| {
        Some(RowError {
            index: number(row, "index")?,
            code: row.get_i32("code").ok()?,
        })
    };
    let inserted = reply.get_array("upserted").map_or(0, Vec::len);
    Ok(WriteReply {
        matched: number(reply, "n").unwrap_or(0),
        changed: number(reply, "nModified").unwrap_or(0) + inserted,
        errors: rows.filter_map(Bson::as_document).filter_map(error).collect(),
    })
}
