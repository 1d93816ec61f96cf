//! What is done to one certificate while the daemon runs.

use anyhow::Result;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use mongodb::Collection;

pub enum Step {
    Insert(Document),
    Postpone(ObjectId, DateTime),
    Delete(ObjectId),
}

impl Step {
    pub async fn apply(&self, badge_users: &Collection<Document>) -> Result<()> {
        match self {
            Self::Insert(certificate) => badge_users.insert_one(certificate).await.map(drop)?,
            Self::Postpone(id, expires) => {
                let set = doc! { "$set": { "expires": expires } };
                badge_users.update_one(doc! { "_id": id }, set).await.map(drop)?;
            }
            Self::Delete(id) => badge_users.delete_one(doc! { "_id": id }).await.map(drop)?,
        }
        Ok(())
    }
}
