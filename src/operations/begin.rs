//! How an operation begins, or is refused. Outside of a transaction these writes would wait for whoever keeps the document locked, such as a
//! back office that hangs, and all other operations with them; in one they fail at once.

use bson::{Bson, Document, doc};
use tracing::{info, warn};

use super::document::id_text;
use super::executor::{Executor, FINAL};
use super::too_large::TooLarge;
use crate::store::{OPERATIONS, Result, Writer};

impl Executor {
    pub(super) async fn refuse(&self, id: &Bson, why: &str) -> Result<()> {
        let now = self.parts.clock.now();
        let set = doc! { "state": "refused", "error": why, "finishedAt": now, "instance": self.instance_id() };
        if self.change(unfinished(id), doc! { "$set": set }).await? {
            info!(operation = id_text(id), why, "an operation is refused");
        }
        Ok(())
    }

    pub(super) async fn refuse_too_large(&self, id: &Bson, too_large: TooLarge) -> Result<()> {
        let TooLarge { why, mut kept } = too_large;
        let now = self.parts.clock.now();
        kept.extend(doc! { "state": "refused", "error": &why, "finishedAt": now, "instance": self.instance_id() });
        if self.change(unfinished(id), kept).await? {
            warn!(
                operation = id_text(id),
                why, "an operation is refused, and loses what is large"
            );
        }
        Ok(())
    }

    /// Notes that this instance carries it out. Returns the document as it is then; `None` if it has ended meanwhile.
    pub(super) async fn take_over(&self, id: &Bson, document: &Document) -> Result<Option<Document>> {
        let mut set = doc! { "state": "running", "instance": self.instance_id() };
        // Whoever sets `state` by hand has it carried out from the beginning.
        let is_new = document.get_str("state").ok() != Some("running")
            || document.get_datetime("startedAt").is_err()
            || document.contains_key("finishedAt");
        let mut unset = doc! { "error": 1, "finishedAt": 1 };
        if is_new {
            let now = self.parts.clock.now();
            set.extend(doc! { "startedAt": now, "progress": { "done": 0_i64 } });
            unset.extend(doc! { "result": 1, "control": 1 });
            if document.get("at").is_none() {
                set.insert("at", now);
            }
        }
        let filter = doc! { "_id": id, "state": { "$eq": document.get("state") } };
        if !self.change(filter, doc! { "$set": set, "$unset": unset }).await? {
            return Ok(None);
        }
        let own = doc! { "_id": id, "state": "running", "instance": self.instance_id() };
        Ok(self.parts.store.operations().find_one(own).await?)
    }

    /// Whether the filter still matched.
    async fn change(&self, filter: Document, update: Document) -> Result<bool> {
        let change = self
            .parts
            .store
            .update_at_once(Writer::Executor, OPERATIONS, filter, update, false);
        Ok(change.await? > 0)
    }
}

fn unfinished(id: &Bson) -> Document {
    doc! { "_id": id, "state": { "$nin": FINAL.as_slice() } }
}
