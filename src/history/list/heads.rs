//! Which documents come next: the `_id`s alone, in order, each query a range of an index.

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::Hint;

use super::candidates::{Candidate, Candidates};
use super::token::{After, Section};
use super::{Choice, STATES};
use crate::history::Odd;
use crate::model::EndpointKey;
use crate::outbox::Class;
use crate::store::{OUTBOX, Result, Store};

/// MongoDB merges as many ranges of an index in order (`internalQueryMaxScansToExplode` is 200).
const QUEUES: usize = 100;

/// Documents that ended at no date and are named, at most.
const MOST_ODD: i64 = 100;

/// A document, and what it is ordered by: when it is due, or when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) at: DateTime,
    pub(super) id: String,
}

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) heads: Vec<Head>,
    /// Documents that were looked at.
    pub(super) looked: usize,
    /// The last of them, chosen or not.
    pub(super) reached: Option<Head>,
    /// Nothing follows.
    pub(super) is_last: bool,
}

/// The documents of a section.
pub(super) struct Heads<'a> {
    store: &'a Store,
    choice: &'a Choice,
    way: Way,
    /// The earliest first.
    ascends: bool,
    /// The last that is done with, and whether it is looked at once more.
    reached: Option<(Head, bool)>,
}

/// How they are found.
enum Way {
    /// The latest of each of these queues.
    Queues(Vec<String>),
    /// All in a range were compared: there are few.
    Compared(Vec<Candidate>),
    /// All in this index that match, the latest first.
    Walked { of: Document, index: &'static str },
}

impl<'a> Heads<'a> {
    pub(super) async fn start(
        store: &'a Store,
        choice: &'a Choice,
        section: Section,
        after: Option<&After>,
    ) -> Result<Self> {
        let reached = after.and_then(|after| after.seek(section));
        let reached = reached.map(|(head, again)| (head.clone(), again));
        let way = match section {
            Section::Pending => Way::Queues(queues(store, choice).await?),
            Section::Ended => ended(store, choice, reached.as_ref()).await?,
        };
        Ok(Self {
            store,
            choice,
            way,
            ascends: choice.ascends(section),
            reached,
        })
    }

    /// The next, `limit` or a few more.
    pub(super) async fn next(&mut self, limit: usize, odd: &mut Vec<Odd>) -> Result<Found> {
        let mut candidates = match &mut self.way {
            Way::Compared(left) => Candidates::of(left.drain(..limit.min(left.len())).collect()),
            Way::Queues(queues) => of_queues(self.store, queues, self.reached.as_ref(), self.ascends, limit).await?,
            Way::Walked { of, index } => {
                let (of, index) = (of.clone(), *index);
                self.walked(of, index, limit).await?
            }
        };
        candidates.sort(self.ascends);
        odd.append(&mut candidates.odd);
        let reached = candidates.all.last().map(Candidate::head);
        if let Some(reached) = &reached {
            self.reached = Some((reached.clone(), false));
        }
        Ok(Found {
            looked: candidates.looked,
            is_last: candidates.looked < limit || reached.is_none(),
            heads: candidates
                .all
                .iter()
                .filter(|row| row.is_chosen)
                .map(Candidate::head)
                .collect(),
            reached,
        })
    }

    /// Bounded by what is looked at, not by what is chosen.
    async fn walked(&self, of: Document, index: &str, limit: usize) -> Result<Candidates> {
        let mut candidates = Candidates::default();
        for seek in seek(self.reached.as_ref(), "finishedAt", false) {
            if candidates.all.len() >= limit {
                break;
            }
            let mut fields = doc! { "finishedAt": 1, "endpoint": 1, "state": 1 };
            fields.extend(self.choice.failed.then(|| ("history.error".to_owned(), Bson::Int32(1))));
            let mut filter = of.clone();
            filter.extend(seek);
            let outbox = self.store.outbox();
            let find = outbox.find(filter).sort(doc! { "finishedAt": -1 }).hint(hint(index));
            // No more than is looked at.
            let batch = u32::try_from(limit + 1).unwrap_or(u32::MAX);
            let mut found = find.projection(fields).batch_size(batch).await?;
            // To the end of those of one instant: they are ordered among themselves.
            while let Some(document) = found.try_next().await? {
                let at = document.get_datetime("finishedAt").ok();
                if candidates.all.len() >= limit && at != candidates.all.last().map(|last| last.at) {
                    break;
                }
                if let Ok(document) = Document::try_from(&document) {
                    let is_chosen = self.is_chosen(&document);
                    candidates.add(&document, "finishedAt", is_chosen);
                }
            }
        }
        Ok(candidates)
    }

    fn is_chosen(&self, document: &Document) -> bool {
        let id = document.get_str("_id").unwrap_or_default();
        let endpoint = document.get_str("endpoint").unwrap_or(id);
        let is_delivery = !id.starts_with("rejected/") && !id.starts_with("unmarkable/");
        let is_in_state = document
            .get_str("state")
            .map_or(true, |state| !left_out(self.choice).contains(&state));
        let has_failed = || document.get_array("history").is_ok_and(|history| !history.is_empty());
        is_delivery && is_in_state && (!self.choice.failed || has_failed()) && self.choice.takes_endpoint(endpoint)
    }
}

/// What comes after the last one: of the same instant, and of earlier ones, or of later ones.
fn seek(reached: Option<&(Head, bool)>, field: &str, ascends: bool) -> Vec<Document> {
    let Some((head, again)) = reached else {
        return vec![doc! { field: { "$lte": DateTime::MAX } }];
    };
    let (after, or_it) = match ascends {
        true => ("$gt", "$gte"),
        false => ("$lt", "$lte"),
    };
    vec![
        doc! { field: head.at, "_id": { if *again { or_it } else { after }: &head.id } },
        doc! { field: { after: head.at } },
    ]
}

/// The states of documents that hold nothing that is chosen: one that was delivered may be beside one that was cancelled.
fn left_out(choice: &Choice) -> Vec<&'static str> {
    let is_wanted = |state: &str| choice.states.iter().any(|wanted| wanted == state);
    let is_left_out = |state: &&str| match *state {
        "delivered" | "cancelled" => !is_wanted("delivered") && !is_wanted("cancelled"),
        state => !is_wanted(state),
    };
    STATES.into_iter().filter(is_left_out).collect()
}

/// What has ended at something that is no date: no page would come to it.
pub(super) async fn odd_ends(store: &Store, choice: &Choice) -> Result<Vec<Odd>> {
    // Each compares with values of its own type alone.
    let least: [Bson; 4] = [
        "".into(),
        f64::NEG_INFINITY.into(),
        Document::new().into(),
        false.into(),
    ];
    let types: Vec<_> = least
        .into_iter()
        .map(|least| doc! { "finishedAt": { "$gte": least } })
        .collect();
    let outbox = store.outbox();
    let find = outbox
        .find(doc! { "$or": types })
        .projection(doc! { "finishedAt": 1 })
        .limit(MOST_ODD);
    let found: Vec<RawDocumentBuf> = find.await?.try_collect().await?;
    let mut candidates = Candidates::default();
    for document in found.iter().filter_map(|document| Document::try_from(document).ok()) {
        let id = document.get_str("_id").unwrap_or_default();
        if id.is_empty() || choice.takes_endpoint(id) {
            candidates.add(&document, "finishedAt", true);
        }
    }
    Ok(candidates.odd)
}

/// The queues that are chosen: those of one endpoint are known, of others a distinct scan finds those that have something pending.
async fn queues(store: &Store, choice: &Choice) -> Result<Vec<String>> {
    if let Some(endpoint) = &choice.endpoint {
        let endpoint = EndpointKey::from_stored(endpoint);
        let may_have_failed = |class: &Class| !choice.failed || *class != Class::Live;
        let queues = Class::ALL.into_iter().filter(may_have_failed);
        let queues = queues.map(|class| class.queue(&endpoint));
        return Ok(queues.filter(|queue| choice.takes_endpoint(queue)).collect());
    }
    let pipeline = [
        doc! { "$sort": { "queue": 1, "due": 1, "_id": 1 } },
        doc! { "$group": { "_id": "$queue", "due": { "$first": "$due" } } },
    ];
    let mut found = store.outbox().aggregate(pipeline).hint(hint("pending")).await?;
    let mut queues = Vec::new();
    while let Some(row) = found.try_next().await? {
        queues.extend(
            row.get_str("_id")
                .ok()
                .filter(|queue| choice.takes_endpoint(queue))
                .map(str::to_owned),
        );
    }
    Ok(queues)
}

/// The latest due of these queues.
async fn of_queues(
    store: &Store,
    queues: &[String],
    reached: Option<&(Head, bool)>,
    ascends: bool,
    limit: usize,
) -> Result<Candidates> {
    let mut candidates = Candidates::default();
    let order = if ascends { 1 } else { -1 };
    for seek in seek(reached, "due", ascends) {
        if candidates.all.len() >= limit {
            break;
        }
        let mut of_seek = Candidates::default();
        for queues in queues.chunks(QUEUES) {
            let mut filter = doc! { "state": "pending", "queue": { "$in": queues } };
            filter.extend(seek.clone());
            let outbox = store.outbox();
            let find = outbox
                .find(filter)
                .sort(doc! { "due": order, "_id": order })
                .hint(hint("pending"));
            let find = find
                .projection(doc! { "due": 1 })
                .limit(i64::try_from(limit).unwrap_or(i64::MAX));
            of_seek.read(find.await?, "due", |_| true).await?;
        }
        of_seek.sort(ascends);
        of_seek.all.truncate(limit - candidates.all.len());
        candidates.append(of_seek);
    }
    Ok(candidates)
}

/// What is in a small range is compared; else all that has ended is walked through.
async fn ended(store: &Store, choice: &Choice, reached: Option<&(Head, bool)>) -> Result<Way> {
    let mut ended = choice.states.iter().filter(|state| *state != "pending");
    let only_dead = ended.all(|state| state == "dead");
    if let (true, Some(endpoint), None) = (only_dead, &choice.endpoint, &choice.organization) {
        let of = doc! { "state": "dead", "endpoint": endpoint };
        return Ok(Way::Walked { of, index: "dead" });
    }
    let walked = || Way::Walked {
        of: doc! {},
        index: "retention",
    };
    let (range, index) = match (choice.range(), only_dead) {
        (_, true) => (doc! { "state": "dead", "endpoint": endpoints(choice) }, "dead"),
        (Some(range), false) => (doc! { "_id": range }, "_id_"),
        (None, false) => return Ok(walked()),
    };
    let most = i32::try_from(choice.budget()).unwrap_or(i32::MAX);
    let count = doc! { "count": OUTBOX, "query": &range, "limit": most + 1, "hint": index };
    let counted = store.database().run_command(count).await?;
    if counted.get_i32("n").unwrap_or(i32::MAX) > most {
        return Ok(walked());
    }
    let pipeline = compared(range, choice, reached);
    let outbox = store.outbox();
    let found = outbox
        .aggregate(pipeline)
        .hint(hint(index))
        .with_type::<RawDocumentBuf>();
    let mut candidates = Candidates::default();
    candidates.read(found.await?, "finishedAt", |_| true).await?;
    Ok(Way::Compared(candidates.all))
}

/// Those in the range that are chosen and not reached yet.
fn compared(range: Document, choice: &Choice, reached: Option<&(Head, bool)>) -> Vec<Document> {
    let failed = match choice.failed {
        true => doc! { "history.0": { "$exists": true } },
        false => doc! {},
    };
    vec![
        doc! { "$match": range },
        doc! { "$match": { "$or": seek(reached, "finishedAt", false) } },
        doc! { "$match": { "state": { "$nin": left_out(choice) } } },
        doc! { "$match": failed },
        doc! { "$project": { "finishedAt": 1 } },
        doc! { "$sort": { "finishedAt": -1, "_id": -1 } },
    ]
}

/// As [`Choice::range`], of whole keys: no key goes on with a NUL.
fn endpoints(choice: &Choice) -> Document {
    match (&choice.endpoint, &choice.organization) {
        (Some(endpoint), Some(organization)) if !endpoint.starts_with(&format!("{organization}/")) => {
            doc! { "$in": [] }
        }
        (Some(endpoint), _) => doc! { "$eq": endpoint },
        (None, Some(organization)) => doc! { "$gte": format!("{organization}/"), "$lt": format!("{organization}0") },
        (None, None) => doc! { "$gte": "" },
    }
}

fn hint(index: &str) -> Hint {
    Hint::Name(index.into())
}
