//! Which documents come next: the `_id`s alone, in order, each query a range of an index.

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::Hint;

use super::token::{After, Section};
use super::{BUDGET, Choice, STATES};
use crate::history::Odd;
use crate::history::fields::shown;
use crate::store::{OUTBOX, Result, Store};

/// MongoDB merges as many ranges of an index in order (`internalQueryMaxScansToExplode` is 200).
const QUEUES: usize = 100;

/// Of what ended at no date, at most.
const ODD: i64 = 100;

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
    /// The last that is done with, and whether it is looked at once more.
    reached: Option<(Head, bool)>,
}

/// How they are found.
enum Way {
    /// Of each of these queues the latest.
    Queues(Vec<String>),
    /// All in a range were compared: there are few.
    Compared(Vec<Candidate>),
    /// All that have ended, the latest first.
    Walked,
}

impl<'a> Heads<'a> {
    pub(super) async fn of(
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
            reached,
        })
    }

    /// The next, `limit` or a few more.
    pub(super) async fn next(&mut self, limit: usize, odd: &mut Vec<Odd>) -> Result<Found> {
        let mut candidates = match &mut self.way {
            Way::Compared(left) => Candidates::of(left.drain(..limit.min(left.len())).collect()),
            Way::Queues(queues) => of_queues(self.store, queues, self.reached.as_ref(), limit).await?,
            Way::Walked => self.walked(limit).await?,
        };
        candidates.sort();
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
    async fn walked(&self, limit: usize) -> Result<Candidates> {
        let mut candidates = Candidates::default();
        for seek in seek(self.reached.as_ref(), "finishedAt") {
            if candidates.all.len() >= limit {
                break;
            }
            let fields = doc! { "finishedAt": 1, "endpoint": 1, "state": 1 };
            let outbox = self.store.outbox();
            let find = outbox
                .find(seek)
                .sort(doc! { "finishedAt": -1 })
                .hint(hint("retention"));
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
        is_delivery && is_in_state && self.choice.takes_endpoint(endpoint)
    }
}

#[derive(Default)]
struct Candidates {
    all: Vec<Candidate>,
    odd: Vec<Odd>,
    /// With the odd ones.
    looked: usize,
}

struct Candidate {
    at: DateTime,
    id: String,
    is_chosen: bool,
}

impl Candidate {
    fn head(&self) -> Head {
        Head {
            at: self.at,
            id: self.id.clone(),
        }
    }
}

impl Candidates {
    fn of(all: Vec<Candidate>) -> Self {
        Self {
            looked: all.len(),
            all,
            odd: Vec::new(),
        }
    }

    async fn read(
        &mut self,
        mut found: mongodb::Cursor<RawDocumentBuf>,
        field: &str,
        is_chosen: impl Fn(&Document) -> bool,
    ) -> Result<()> {
        while let Some(document) = found.try_next().await? {
            if let Ok(document) = Document::try_from(&document) {
                self.add(&document, field, is_chosen(&document));
            }
        }
        Ok(())
    }

    fn add(&mut self, document: &Document, field: &str, is_chosen: bool) {
        self.looked += 1;
        match (document.get_datetime(field), document.get_str("_id")) {
            (Ok(at), Ok(id)) => self.all.push(Candidate {
                at: *at,
                id: id.to_owned(),
                is_chosen,
            }),
            _ => self.odd.push(Odd {
                document: document.get("_id").map_or_else(String::new, shown),
                why: format!("`{field}` is not a date, or `_id` is not a string"),
            }),
        }
    }

    fn sort(&mut self) {
        self.all
            .sort_by(|one, other| (other.at, &other.id).cmp(&(one.at, &one.id)));
    }

    fn append(&mut self, other: Self) {
        self.all.extend(other.all);
        self.looked += other.looked;
        self.odd.extend(other.odd);
    }
}

/// What comes after the last one: of the same instant, and of earlier ones.
fn seek(reached: Option<&(Head, bool)>, field: &str) -> Vec<Document> {
    let Some((head, again)) = reached else {
        return vec![doc! { field: { "$lte": DateTime::MAX } }];
    };
    let below = if *again { "$lte" } else { "$lt" };
    vec![
        doc! { field: head.at, "_id": { below: &head.id } },
        doc! { field: { "$lt": head.at } },
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
        .limit(ODD);
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

/// The queues that are chosen and have something pending: a distinct scan.
async fn queues(store: &Store, choice: &Choice) -> Result<Vec<String>> {
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
    limit: usize,
) -> Result<Candidates> {
    let mut candidates = Candidates::default();
    for seek in seek(reached, "due") {
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
                .sort(doc! { "due": -1, "_id": -1 })
                .hint(hint("pending"));
            let find = find
                .projection(doc! { "due": 1 })
                .limit(i64::try_from(limit).unwrap_or(i64::MAX));
            of_seek.read(find.await?, "due", |_| true).await?;
        }
        of_seek.sort();
        of_seek.all.truncate(limit - candidates.all.len());
        candidates.append(of_seek);
    }
    Ok(candidates)
}

/// What is in a small range is compared; else all that has ended is walked through.
async fn ended(store: &Store, choice: &Choice, reached: Option<&(Head, bool)>) -> Result<Way> {
    let mut ended = choice.states.iter().filter(|state| *state != "pending");
    let only_dead = ended.all(|state| state == "dead");
    let (range, index) = match (choice.range(), only_dead) {
        (_, true) => (doc! { "state": "dead", "endpoint": endpoints(choice) }, "dead"),
        (Some(range), false) => (doc! { "_id": range }, "_id_"),
        (None, false) => return Ok(Way::Walked),
    };
    let most = i32::try_from(BUDGET).unwrap_or(i32::MAX);
    let count = doc! { "count": OUTBOX, "query": &range, "limit": most + 1, "hint": index };
    let counted = store.database().run_command(count).await?;
    if counted.get_i32("n").unwrap_or(i32::MAX) > most {
        return Ok(Way::Walked);
    }
    let pipeline = [
        doc! { "$match": range },
        doc! { "$match": { "$or": seek(reached, "finishedAt") } },
        doc! { "$match": { "state": { "$nin": left_out(choice) } } },
        doc! { "$project": { "finishedAt": 1 } },
        doc! { "$sort": { "finishedAt": -1, "_id": -1 } },
    ];
    let outbox = store.outbox();
    let found = outbox
        .aggregate(pipeline)
        .hint(hint(index))
        .with_type::<RawDocumentBuf>();
    let mut candidates = Candidates::default();
    candidates.read(found.await?, "finishedAt", |_| true).await?;
    Ok(Way::Compared(candidates.all))
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
