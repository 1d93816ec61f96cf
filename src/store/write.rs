//! Writes of many rows that need not happen all together.

use bson::{RawDocumentBuf, cstr, rawdoc};

use super::{Error, Result, Store, command};

impl Store {
    /// Runs the rows of an update, each by itself. Returns the errors of those that MongoDB did not write: [`Error::row`] says which.
    ///
    /// # Errors
    /// MongoDB did not do it, or did not confirm it.
    pub async fn update_each(&self, collection: &str, rows: &[RawDocumentBuf]) -> Result<Vec<Error>> {
        let mut refused = Vec::new();
        for mut command in command::updates(collection, rows.iter()) {
            command
                .body
                .append(cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true });
            let reply = self.database().run_raw_command(command.body).await?;
            let reply = command::parse(&reply, command.first)?;
            refused.extend(reply.refused.into_iter().map(Error::of_row));
        }
        Ok(refused)
    }
}
