//! Write commands by hand: one `insert` or `update` for hundreds of rows that differ.
//!
//! The driver's `bulk_write` needs MongoDB 8, and 6.0 must work; its `insert_many` serializes what is BSON already.

use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};

use super::{Result, Store};

/// What a write command did.
#[derive(Debug, Default)]
pub struct WriteReply {
    /// Rows inserted or matched.
    pub matched: usize,
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
        let mut documents = RawArrayBuf::new();
        rows.for_each(|row| documents.push(row.clone()));
        self.write(rawdoc! { "insert": collection, "ordered": false, "documents": documents })
            .await
    }

    /// Runs the update rows, unordered.
    ///
    /// # Errors
    /// MongoDB did not do it, or did not confirm it: repeat.
    pub(crate) async fn update_rows<'a>(
        &self,
        collection: &str,
        rows: impl Iterator<Item = &'a RawDocumentBuf>,
    ) -> Result<WriteReply> {
        let mut updates = RawArrayBuf::new();
        rows.for_each(|row| updates.push(row.clone()));
        self.write(rawdoc! { "update": collection, "ordered": false, "updates": updates })
            .await
    }

    async fn write(&self, mut command: RawDocumentBuf) -> Result<WriteReply> {
        command.append(bson::cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true });
        let reply = self.database().run_raw_command(command).await?;
        let reply = RawDocumentBuf::try_from(&reply).map_err(mongodb::error::Error::custom)?;
        parse(&reply)
    }
}

fn parse(reply: &RawDocument) -> Result<WriteReply> {
    if let Ok(Some(concern)) = reply.get("writeConcernError") {
        return Err(mongodb::error::Error::custom(format!(
            "the write was not confirmed: {concern:?}"
        )));
    }
    let mut parsed = WriteReply {
        matched: reply
            .get_i32("n")
            .ok()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0),
        errors: Vec::new(),
    };
    let Ok(rows) = reply.get_array("writeErrors") else {
        return Ok(parsed);
    };
    for row in rows {
        let Some(row) = row.ok().and_then(|row| row.as_document()) else {
            continue;
        };
        let index = row.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());
        if let (Some(index), Ok(code)) = (index, row.get_i32("code")) {
            parsed.errors.push(RowError { index, code });
        }
    }
    Ok(parsed)
}
