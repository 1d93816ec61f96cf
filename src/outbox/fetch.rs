//! Reading batches out of the outbox: which queues have something pending, and the batches themselves.

use std::collections::HashMap;
use std::sync::Arc;

use bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::{AggregateOptions, FindOptions};

use super::document::{BATCH_DELIVERIES, decode, hint, id_of};
use super::{Class, Fetched, Outbox, Unreadable};
use crate::model::EndpointKey;
use crate::store::{OUTBOX, Result};

/// Parts of one command: one command per part costs MongoDB and us more than reading what the part has. MongoDB allows a
/// pipeline 1,000 stages.
const WANTS_PER_COMMAND: usize = 100;

/// The first batch of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose queue it is.
    pub endpoint: EndpointKey,
    /// Which part of it.
    pub class: Class,
    /// When the batch is due.
    pub due: DateTime,
    /// The batch's `_id`.
    pub id: Arc<str>,
    /// How many of its deliveries have no recorded result.
    pub open: usize,
}

impl Head {
    /// A delivery that is a document of its own and is sent again.
    pub(super) fn retry(endpoint: &EndpointKey, id: Arc<str>, due: DateTime) -> Self {
        Self {
            endpoint: endpoint.clone(),
            class: Class::Retry,
            due,
            id,
            open: 1,
        }
    }
}

/// What to read.
#[derive(Clone, Debug)]
pub enum Want {
    /// A batch that is known, whole.
    Batch(Arc<str>),
    /// A batch that this instance has just appended, as it appended it: it is not read again.
    Appended {
        /// The batch.
        document: Arc<RawDocumentBuf>,
        /// The place of the first that is wanted.
        from: u32,
        /// Deliveries at most.
        limit: usize,
    },
    /// A slice of a known batch.
    Slice {
        /// Its `_id`.
        id: Arc<str>,
        /// The place to begin at; `None`: the first place that is not settled.
        skip: Option<u32>,
        /// Deliveries at most.
        limit: usize,
    },
    /// The next batches of a queue that are due.
    Next {
        /// Whose queue.
        endpoint: EndpointKey,
        /// Which part of it.
        class: Class,
        /// Batches to leave out: they are in memory.
        except: Vec<Arc<str>>,
        /// Batches at most.
        batches: usize,
    },
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Looked {
    /// The first batch of each queue.
    pub heads: Vec<Head>,
    /// First batches that can't be read. In the order of the index they come before those that can.
    pub unreadable: Vec<Unreadable>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Read {
    /// The batches, in no order.
    pub batches: Vec<Fetched>,
    /// Batches that can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Whether reading ended early, because it had brought enough bytes.
    pub cut: bool,
}

impl Outbox {
    /// The first batch of each queue that has something pending. Served by a distinct scan of the index on pending batches: its
    /// cost grows with the queues, not with the backlog. The index holds nothing else, so the state isn't asked for: that would
    /// have every pending document fetched.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn look(&self) -> Result<Looked> {
        let pipeline = vec![
            doc! { "$sort": { "queue": 1, "due": 1, "_id": 1 } },
            doc! { "$group": { "_id": "$queue", "due": { "$first": "$due" }, "id": { "$first": "$_id" }, "open": { "$first": "$open" } } },
        ];
        let mut looked = Looked::default();
        let options = AggregateOptions::builder().hint(hint("pending")).build();
        let mut session = self.store.read_session().await?;
        let look = session.aggregate(OUTBOX, pipeline, options, |row| {
            looked.add(&row);
            true
        });
        look.await?;
        Ok(looked)
    }

    /// Reads what is wanted, until it has `budget` bytes of payload or a little more.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn fetch(&self, wants: &[Want], now: DateTime, budget: usize) -> Result<Read> {
        let mut read = Read::default();
        let mut bytes = 0;
        for want in wants {
            if let Want::Appended { document, from, limit } = want {
                bytes += document.as_bytes().len();
                read.add_slice(document, 0, *from, *limit);
            }
        }
        let parts: HashMap<&str, usize> = wants.iter().filter_map(part).collect();
        let mut take = |document: RawDocumentBuf| {
            bytes += document.as_bytes().len();
            read.add(&document, &parts);
            bytes < budget
        };
        let mut goes_on = self.fetch_whole(wants, &mut take).await?;
        for pipeline in pipelines(wants, now) {
            if !goes_on {
                break;
            }
            let mut session = self.store.read_session().await?;
            let options = AggregateOptions::default();
            goes_on = session.aggregate(OUTBOX, pipeline, options, &mut take).await?;
        }
        read.cut = !goes_on;
        Ok(read)
    }

    /// The batches that are known, and wanted whole: a `find` costs MongoDB less than a pipeline. `false` if `take` wants no more.
    async fn fetch_whole(&self, wants: &[Want], take: impl FnMut(RawDocumentBuf) -> bool) -> Result<bool> {
        let known = wants.iter().filter_map(|want| match want {
            Want::Batch(id) => Some(Bson::String(id.to_string())),
            _ => None,
        });
        let known: Vec<Bson> = known.collect();
        if known.is_empty() {
            return Ok(true);
        }
        let filter = doc! { "_id": { "$in": known }, "state": "pending" };
        let options = FindOptions::builder().hint(hint("_id_")).build();
        let mut session = self.store.read_session().await?;
        session.find(OUTBOX, filter, options, take).await
    }
}

impl Looked {
    fn add(&mut self, row: &RawDocument) {
        match head(row) {
            Ok(head) => self.heads.push(head),
            Err(reason) => {
                let seen = [("queue", "_id"), ("due", "due")];
                self.unreadable
                    .push(Unreadable::new(row, "id", &seen, reason.to_owned()));
            }
        }
    }
}

impl Read {
    fn add(&mut self, document: &RawDocumentBuf, parts: &HashMap<&str, usize>) {
        let id = id_of(document).unwrap_or_default();
        let skip = document.get_i32("skip").ok().and_then(|skip| u32::try_from(skip).ok());
        let limit = parts.get(id.as_str()).copied().unwrap_or(usize::MAX);
        self.add_slice(document, skip.unwrap_or(0), 0, limit);
    }

    fn add_slice(&mut self, document: &RawDocumentBuf, skip: u32, from: u32, limit: usize) {
        match decode(document, skip, from, limit) {
            Ok(batch) => self.batches.push(batch),
            Err(reason) => {
                let seen = [("version", "version")];
                self.unreadable.push(Unreadable::new(document, "_id", &seen, reason));
            }
        }
    }
}

fn head(row: &RawDocument) -> std::result::Result<Head, &'static str> {
    let queue = row.get_str("_id").map_err(|_| "`queue` is not a string")?;
    let (endpoint, class) = Class::parse(queue).ok_or("`queue` names no endpoint and class")?;
    Ok(Head {
        endpoint,
        class,
        due: row.get_datetime("due").map_err(|_| "`due` is not a date")?,
        id: row.get_str("id").map_err(|_| "`_id` is not a string")?.into(),
        // If it is no number, whoever reads the batch sees that.
        open: row
            .get_i32("open")
            .map_or(BATCH_DELIVERIES, |open| usize::try_from(open).unwrap_or(0)),
    })
}

fn part(want: &Want) -> Option<(&str, usize)> {
    match want {
        Want::Slice { id, limit, .. } => Some((id, *limit)),
        _ => None,
    }
}

/// One pipeline for as many wants as go into a command, but for batches that are wanted whole.
fn pipelines(wants: &[Want], now: DateTime) -> Vec<Vec<Document>> {
    let parts: Vec<Vec<Document>> = wants.iter().filter_map(|want| pipeline(want, now)).collect();
    let command = |parts: &[Vec<Document>]| {
        let mut pipeline = parts[0].clone();
        pipeline.extend(
            parts[1..]
                .iter()
                .map(|part| doc! { "$unionWith": { "coll": OUTBOX, "pipeline": part.clone() } }),
        );
        pipeline
    };
    parts.chunks(WANTS_PER_COMMAND).map(command).collect()
}

fn pipeline(want: &Want, now: DateTime) -> Option<Vec<Document>> {
    match want {
        Want::Batch(_) | Want::Appended { .. } => None,
        Want::Slice { id, skip, limit } => {
            let skip = skip.map_or_else(first_open, |skip| Bson::Int32(i32::try_from(skip).unwrap_or(i32::MAX)));
            Some(vec![
                doc! { "$match": { "_id": &**id, "state": "pending" } },
                doc! { "$set": { "skip": skip } },
                doc! { "$project": slice_fields(*limit) },
            ])
        }
        Want::Next {
            endpoint,
            class,
            except,
            batches,
        } => {
            let except: Vec<&str> = except.iter().map(|id| &**id).collect();
            Some(vec![
                // All but the state is in the keys of the index. What has no date or no text for its id is reported by a look.
                doc! { "$match": {
                    "state": "pending", "queue": class.queue(endpoint), "due": { "$lte": now },
                    "_id": { "$nin": except, "$gte": "" },
                } },
                doc! { "$sort": { "due": 1, "_id": 1 } },
                doc! { "$limit": i64::try_from(*batches).unwrap_or(i64::MAX) },
            ])
        }
    }
}

/// The fields of a batch, with at most `limit` of its deliveries from `skip` on.
fn slice_fields(limit: usize) -> Document {
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    let deliveries = doc! { "$slice": ["$deliveries", "$skip", limit] };
    doc! {
        "version": 1, "queue": 1, "due": 1, "open": 1, "results": 1, "attempts": 1, "firstAttemptAt": 1, "redriven": 1,
        "begun": 1, "replay": 1, "skip": 1,
        "size": array_or_empty("$deliveries", |array| doc! { "$size": array }.into()),
        "deliveries": { "$cond": [{ "$isArray": "$deliveries" }, deliveries, "$deliveries"] },
    }
}

/// The first place of a batch that is not settled.
fn first_open() -> Bson {
    let place = array_or_empty("$results", |results| doc! { "$indexOfArray": [results, null] }.into());
    let count = array_or_empty("$results", |results| doc! { "$size": results }.into());
    Bson::Document(doc! { "$let": {
        "vars": { "place": place },
        "in": { "$cond": [{ "$lt": ["$$place", 0] }, count, "$$place"] },
    } })
}

/// An expression over a field that should be an array: one that is something else must not break the command for the others.
fn array_or_empty(field: &str, expression: impl Fn(Bson) -> Bson) -> Bson {
    let array = doc! { "$cond": [{ "$isArray": field }, field, []] };
    expression(array.into())
}
