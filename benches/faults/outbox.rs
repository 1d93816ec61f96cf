//! What the outbox holds at rest, document by document.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;

use super::fixture::Fixture;
use super::ledger::Pair;

/// The layout that is expected.
const LAYOUT: i32 = 2;

/// Created again where they are lost.
const INDEXES: [&str; 4] = ["pending", "dead", "events", "retention"];

#[derive(Debug, Default)]
pub struct Outbox {
    /// How many results say that it was delivered.
    pub delivered: HashMap<Pair, usize>,
    /// Events that could not be stored.
    pub set_aside: HashSet<String>,
    /// Events that were sent and whose certificates could not be marked.
    pub unmarkable: HashSet<String>,
    /// What is not as it must be.
    pub wrong: Vec<String>,
    ids: HashSet<String>,
    /// Deliveries that left their batch: the `_id` of their own document.
    moved: Vec<String>,
}

impl Outbox {
    /// Reads all documents. `paths`: the receiver's path of each endpoint.
    pub async fn read(fixture: &Fixture<'_>, paths: &HashMap<String, &'static str>) -> Result<Self> {
        let collection = fixture.database.collection::<Document>("webhook_outbox");
        let find = collection.find(doc! {}).projection(doc! { "deliveries.payload": 0 });
        let documents: Vec<Document> = find.await?.try_collect().await?;
        let mut outbox = Self::default();
        let indexes = collection.list_index_names().await?;
        let missing = INDEXES
            .iter()
            .filter(|name| !indexes.iter().any(|index| index == *name));
        outbox.wrong.extend(missing.map(|name| format!("no index: {name}")));
        for document in &documents {
            let id = document.get_str("_id").unwrap_or_default();
            outbox.ids.insert(id.to_owned());
            match id.split_once('/') {
                Some(("rejected", event)) => drop(outbox.set_aside.insert(event.to_owned())),
                Some(("unmarkable", event)) => drop(outbox.unmarkable.insert(event.to_owned())),
                _ => match outbox.add(document, paths) {
                    Ok(()) => {}
                    Err(what) => outbox.wrong.push(format!("{what}: {document}")),
                },
            }
        }
        let lost = outbox.moved.iter().filter(|id| !outbox.ids.contains(*id));
        let lost: Vec<_> = lost.map(|id| format!("moved, and not there: {id}")).collect();
        outbox.wrong.extend(lost);
        let twice = outbox.delivered.iter().filter(|(_, times)| **times > 1);
        let twice: Vec<_> = twice
            .map(|(pair, times)| format!("recorded {times} times: {pair:?}"))
            .collect();
        outbox.wrong.extend(twice);
        Ok(outbox)
    }

    /// A batch, or a delivery by itself.
    fn add(&mut self, document: &Document, paths: &HashMap<String, &'static str>) -> Result<(), &'static str> {
        let number = |field| document.get_i32(field).ok();
        if number("v") != Some(LAYOUT) {
            return Err("of no known layout");
        }
        if document.get_str("state").ok() != Some("delivered") || number("open") != Some(0) {
            return Err("not done");
        }
        let endpoint = document.get_str("endpoint").map_err(|_| "without endpoint")?;
        let path = paths.get(endpoint).ok_or("of no known endpoint")?;
        let deliveries = document.get_array("deliveries").map_err(|_| "without deliveries")?;
        let results = document.get_array("results").map_err(|_| "without results")?;
        if deliveries.len() != results.len() || deliveries.is_empty() {
            return Err("not as many results as deliveries");
        }
        for (delivery, result) in deliveries.iter().zip(results) {
            let event = delivery
                .as_document()
                .and_then(|delivery| delivery.get_str("event").ok());
            let event = event.ok_or("a delivery without event")?;
            let result = result.as_document().ok_or("a delivery without result")?;
            match (result.get("status"), result.get("moved")) {
                (Some(Bson::Int32(200)), None) => {
                    *self
                        .delivered
                        .entry(((*path).to_owned(), event.to_owned()))
                        .or_default() += 1
                }
                (None, Some(Bson::Boolean(true))) => self.moved.push(format!("{endpoint}/{event}")),
                _ => return Err("an unknown result"),
            }
        }
        Ok(())
    }
}
