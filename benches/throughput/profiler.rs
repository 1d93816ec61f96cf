//! What the daemon asks of MongoDB, as MongoDB's own profiler sees it.

use std::collections::BTreeMap;

use anyhow::Result;
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};

/// Space for what an idle daemon asks in an hour, in bytes.
const SIZE: i64 = 64 << 20;

/// Begins to write down every operation on this database.
pub async fn begin(database: &Database) -> Result<()> {
    database.run_command(doc! { "profile": 0 }).await?;
    database.collection::<Document>("system.profile").drop().await?;
    let create = doc! { "create": "system.profile", "capped": true, "size": SIZE };
    database.run_command(create).await?;
    database.run_command(doc! { "profile": 2 }).await?;
    Ok(())
}

/// Ends it and returns the daemon's operations, the earliest first.
pub async fn end(database: &Database) -> Result<Vec<Document>> {
    database.run_command(doc! { "profile": 0 }).await?;
    let profile: Collection<Document> = database.collection("system.profile");
    let ours = profile
        .find(doc! { "appName": "certhookd" })
        .sort(doc! { "ts": 1 })
        .await?;
    Ok(ours.try_collect().await?)
}

/// How often each kind of operation came: kinds are told apart by what they do, where, and by which plan.
pub fn kinds(operations: &[Document]) -> BTreeMap<String, usize> {
    let text = |operation: &Document, field: &str| operation.get_str(field).unwrap_or_default().to_owned();
    let mut kinds = BTreeMap::new();
    for operation in operations {
        let kind = ["op", "ns", "planSummary"]
            .map(|field| text(operation, field))
            .join(" ");
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}
