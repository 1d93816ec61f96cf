//! Deliveries one after the other, page by page: what is pending first, the latest due first, then what has ended, the latest first.
//!
//! A page looks at a bounded number of documents, whatever is chosen: then it is shorter, and its token leads on.

mod candidates;
mod heads;
mod token;

use std::collections::{BTreeSet, HashMap};

use bson::{DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;

use super::configured::{Configured, of_keys};
use super::documents::{Stored, StoredDelivery};
use super::endpoint_states::load_states;
use super::merged::told;
use super::next::next;
use super::{Delivery, Odd};
use crate::config::Config;
use crate::model::EventType;
use crate::store::{Result, Store};

use heads::{Head, Heads, odd_ends};
pub use token::After;
use token::Section;

/// The states that may be chosen.
pub const STATES: [&str; 5] = ["pending", "delivered", "dead", "cancelled", "rejected"];

/// Documents that a page looks at, at most, or a little more.
const BUDGET: usize = 10_000;

/// The same for deliveries of which an attempt has failed: they are among the last, or not shown.
const BUDGET_OF_FAILED: usize = 400;

/// Documents that are read at once, at most.
const STEP: usize = 200;

/// Which deliveries; what is given must all hold.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// An endpoint, as `ORGANIZATION/ENDPOINT`.
    pub endpoint: Option<String>,
    /// An organization.
    pub organization: Option<String>,
    /// A type of event.
    pub event_type: Option<EventType>,
    /// What happened at this instant or later.
    pub from: Option<DateTime>,
    /// What happened before this instant.
    pub to: Option<DateTime>,
    /// In which states.
    pub states: Vec<String>,
    /// Of which an attempt has failed. Fewer documents are looked at for these.
    pub failed: bool,
    /// What is pending in the order in which it is due, instead of the latest first.
    pub next_first: bool,
}

/// A page of them.
#[derive(Debug, Default)]
pub struct Listing {
    /// In order.
    pub deliveries: Vec<Delivery>,
    /// Documents of which something can't be read.
    pub odd: Vec<Odd>,
    /// Where to go on, if more may follow.
    pub after: Option<After>,
}

impl Choice {
    fn takes(&self, place: &StoredDelivery) -> bool {
        let within = |at: DateTime| self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to);
        // What can't be read is not hidden by a choice of states.
        (place.state == "unknown" || self.states.iter().any(|state| state == place.state))
            && (!self.failed || place.history.iter().any(|attempt| attempt.error.is_some()))
            && self.event_type.is_none_or(|wanted| wanted.as_str() == place.event_type)
            && place
                .occurred_at
                .map_or(self.from.is_none() && self.to.is_none(), within)
    }

    fn budget(&self) -> usize {
        if self.failed { BUDGET_OF_FAILED } else { BUDGET }
    }

    /// Whether that section begins with what is earliest.
    fn ascends(&self, section: Section) -> bool {
        self.next_first && section == Section::Pending
    }

    /// From the first key of an endpoint to before the last, each followed by `/`: as in the `_id` of documents. `0` follows `/`.
    fn range(&self) -> Option<Document> {
        let names = self.organization.iter().chain(&self.endpoint);
        let ranges: Vec<_> = names.map(|name| (format!("{name}/"), format!("{name}0"))).collect();
        let first = ranges.iter().map(|(first, _)| first).max()?;
        let end = ranges.iter().map(|(_, end)| end).min()?;
        Some(doc! { "$gte": first, "$lt": end })
    }

    /// Whether documents of that endpoint, or whose `_id` begins so, are chosen.
    fn takes_endpoint(&self, name: &str) -> bool {
        let begins = |wanted: &String| {
            name.strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        self.organization.as_ref().is_none_or(begins)
            && self
                .endpoint
                .as_ref()
                .is_none_or(|wanted| wanted == name || begins(wanted))
    }
}

/// The next `limit` deliveries, at most.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn list(
    store: &Store,
    endpoints: &impl Configured,
    config: &Config,
    choice: &Choice,
    limit: usize,
    after: Option<After>,
) -> Result<Listing> {
    let at = store.database_time().await?;
    let mut page = Page {
        store,
        choice,
        read: Stored::default(),
        after,
    };
    let is_complete = page.fill(limit).await?;
    let Page { read, after, .. } = page;
    let keys: BTreeSet<_> = read.deliveries.iter().map(StoredDelivery::key).collect();
    let directory = &endpoints.of(&of_keys(keys.iter().cloned())).await?;
    let states = load_states(store, directory, config, &keys, at).await?;
    let tell = |place| {
        told(place, directory, |place: &StoredDelivery| {
            next(place, &states, config, at)
        })
    };
    Ok(Listing {
        deliveries: read.deliveries.into_iter().map(tell).collect(),
        odd: read.odd,
        after: after.filter(|_| !is_complete),
    })
}

struct Page<'a> {
    store: &'a Store,
    choice: &'a Choice,
    read: Stored,
    /// What is done with.
    after: Option<After>,
}

impl Page<'_> {
    /// Whether nothing follows.
    async fn fill(&mut self, limit: usize) -> Result<bool> {
        let mut budget = self.choice.budget();
        // As many as are wanted, and more at once where few of them are chosen.
        let mut step = limit.clamp(1, STEP);
        for section in [Section::Pending, Section::Ended] {
            if self.after.as_ref().is_some_and(|after| after.section > section) || !section.holds(&self.choice.states) {
                continue;
            }
            if section == Section::Ended && self.after.as_ref().is_none_or(|after| after.head.is_none()) {
                self.read.odd.extend(odd_ends(self.store, self.choice).await?);
            }
            let mut heads = Heads::start(self.store, self.choice, section, self.after.as_ref()).await?;
            loop {
                if self.read.deliveries.len() >= limit || budget == 0 {
                    return Ok(false);
                }
                let found = heads.next(step.min(budget), &mut self.read.odd).await?;
                step = (2 * step).min(STEP);
                budget = budget.saturating_sub(found.looked);
                let documents = self.documents(&found.heads).await?;
                for head in &found.heads {
                    if self.add(head, &documents, section, limit) {
                        return Ok(false);
                    }
                }
                if found.is_last {
                    break;
                }
                if let Some(last) = found.reached {
                    self.after = Some(After::document(section, last));
                }
            }
            self.after = Some(After::pending());
        }
        Ok(true)
    }

    /// Adds what a document holds; whether the page is full then.
    fn add(&mut self, head: &Head, documents: &HashMap<String, Document>, section: Section, limit: usize) -> bool {
        let mut read = Stored::default();
        if let Some(document) = documents.get(&head.id) {
            read.add(document, |_| true);
        }
        let ascends = self.choice.ascends(section);
        let done = self.after.as_ref().and_then(|after| after.place_in(section, head));
        let is_left = |place: usize| done.is_none_or(|done| if ascends { place > done } else { place < done });
        let mut places: Vec<_> = read.deliveries.into_iter().enumerate().collect();
        if !ascends {
            places.reverse();
        }
        for (place, delivery) in places.into_iter().filter(|(place, _)| is_left(*place)) {
            if !self.choice.takes(&delivery) {
                continue;
            }
            self.read.deliveries.push(delivery);
            if self.read.deliveries.len() >= limit {
                let place = (ascends || place > 0).then_some(place);
                self.after = Some(After::delivery(section, head, place));
                self.read.odd.extend(read.odd);
                return true;
            }
        }
        self.after = Some(After::document(section, head.clone()));
        self.read.odd.extend(read.odd);
        false
    }

    async fn documents(&self, heads: &[Head]) -> Result<HashMap<String, Document>> {
        if heads.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<_> = heads.iter().map(|head| &*head.id).collect();
        let outbox = self.store.outbox();
        let find = outbox
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "deliveries.payload": 0 });
        let found: Vec<RawDocumentBuf> = find.await?.try_collect().await?;
        let documents = found.iter().filter_map(|document| Document::try_from(document).ok());
        Ok(documents
            .map(|document| (document.get_str("_id").unwrap_or_default().to_owned(), document))
            .collect())
    }
}
