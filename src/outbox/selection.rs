//! Which deliveries are meant, by a replay or a cancellation, and how to find them: each query is a range of an index.

use std::collections::VecDeque;
use std::ops::Range;

use bson::{DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Cursor;

use super::Class;
use super::document::hint;
use crate::model::EventType;
use crate::store::{Result, Store};

/// Which deliveries somebody means. What is left out is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A delivery as `EVENT/ORGANIZATION/ENDPOINT`, an event (then all its deliveries), or the `_id` of a document of the outbox.
    pub id: Option<String>,
    /// A certificate's id, as it is in the ids of its events.
    pub certificate: Option<String>,
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
    /// How the deliveries ended: `dead`, `cancelled`, `delivered`; or `pending`.
    pub states: Vec<String>,
}

/// A delivery, as far as it is selected by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) event: &'a str,
    pub(super) event_type: &'a str,
    pub(super) state: &'a str,
    pub(super) occurred_at: DateTime,
}

/// A filter, and the name of the index that serves it.
struct Query {
    filter: Document,
    index: &'static str,
}

impl Selection {
    /// Whether it says anything beside the states.
    pub fn chooses(&self) -> bool {
        self.id.is_some()
            || self.certificate.is_some()
            || self.endpoint.is_some()
            || self.organization.is_some()
            || self.event_type.is_some()
            || self.from.is_some()
            || self.to.is_some()
    }

    /// Whether that delivery is selected, of a document that is.
    pub(super) fn includes(&self, candidate: Candidate<'_>) -> bool {
        self.states.iter().any(|state| state == candidate.state)
            && self.event().is_none_or(|event| event == candidate.event)
            && self.is_of_certificate(candidate.event)
            && self
                .event_type
                .is_none_or(|wanted| wanted.as_str() == candidate.event_type)
            && self.from.is_none_or(|from| candidate.occurred_at >= from)
            && self.to.is_none_or(|to| candidate.occurred_at < to)
    }

    /// The event that the id names, alone or with an endpoint: it begins with its type.
    fn event(&self) -> Option<&str> {
        let id = self.id.as_deref()?;
        EventType::begins(id).then(|| id.split_once('/').map_or(id, |(event, _)| event))
    }

    fn is_of_certificate(&self, event: &str) -> bool {
        let Some(certificate) = &self.certificate else {
            return true;
        };
        let of_type = |event_type: &EventType| event.starts_with(&event_type.id_prefix(certificate));
        EventType::ALL.iter().any(of_type)
    }

    /// The states of documents that may hold something selected, as they were before `before`: what ends later is not looked at
    /// twice.
    fn states(&self, before: DateTime) -> Document {
        if self.states.iter().any(|state| state == "pending") {
            return doc! { "state": { "$in": ["pending", "dead"] } };
        }
        doc! { "state": { "$in": ["dead", "delivered", "cancelled"] }, "finishedAt": { "$lt": before } }
    }

    /// Documents that hold something selected, as they were before `before`.
    fn queries(&self, before: DateTime) -> VecDeque<Query> {
        if let Some(id) = &self.id {
            return [self.named(id, before)].into();
        }
        if let Some(certificate) = &self.certificate {
            return EventType::ALL
                .map(|event_type| self.of_certificate(event_type, certificate, before))
                .into();
        }
        let mut queries = VecDeque::new();
        let (dead, others): (Vec<_>, Vec<_>) = self.states.iter().partition(|state| *state == "dead");
        let (pending, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|state| *state == "pending");
        if !pending.is_empty() {
            let mut filter = doc! { "state": "pending" };
            filter.extend(self.keys("/").map(|keys| ("queue".to_owned(), between(keys).into())));
            let index = "pending";
            queries.push_back(Query { filter, index });
        }
        if !dead.is_empty() {
            let mut filter = doc! { "state": "dead", "finishedAt": { "$lt": before } };
            filter.extend(self.keys("").map(|keys| ("endpoint".to_owned(), between(keys).into())));
            queries.push_back(Query { filter, index: "dead" });
        }
        if !others.is_empty() {
            // What was cancelled may hold deliveries that were delivered before, and the other way round.
            let mut filter = doc! { "state": { "$in": ["delivered", "cancelled"] }, "finishedAt": { "$lt": before } };
            let keys = self.keys("/");
            let index = if keys.is_some() { "_id_" } else { "retention" };
            filter.extend(keys.map(|keys| ("_id".to_owned(), between(keys).into())));
            queries.push_back(Query { filter, index });
        }
        queries
    }

    /// As [`Selection::queries`], for whoever changes what is found while others move it: what was released to the class `background`, and what
    /// fails out of its batch. So the classes are walked through in an order in which nothing moves to where the walk has been for the last
    /// time (new retries are not moved), and what an id leads to is looked for twice.
    fn queries_of_moving(&self, before: DateTime) -> VecDeque<Query> {
        const WALK: [Class; 4] = [Class::Live, Class::Retry, Class::Background, Class::Retry];
        if !self.states.iter().any(|state| state == "pending") {
            return self.queries(before);
        }
        // What has died since is meant too.
        let queries = self.queries(DateTime::MAX);
        if self.id.is_some() || self.certificate.is_some() {
            return queries.into_iter().chain(self.queries(DateTime::MAX)).collect();
        }
        let others = queries.into_iter().filter(|query| query.index != "pending");
        WALK.map(|class| self.pending(class))
            .into_iter()
            .chain(others)
            .collect()
    }

    /// Documents that wait in that class of the selected endpoints' queues.
    fn pending(&self, class: Class) -> Query {
        // Read from the keys of the index.
        let mut queue = doc! { "$regex": format!("/{}$", class.as_str()) };
        queue.extend(self.keys("/").map(between).unwrap_or_default());
        Query {
            filter: doc! { "state": "pending", "queue": queue },
            index: "pending",
        }
    }

    /// Documents that hold what the id names.
    fn named(&self, id: &str, before: DateTime) -> Query {
        let states = self.states(before);
        let Some(event) = self.event() else {
            let filter = doc! { "$and": [{ "_id": id }, states] };
            return Query { filter, index: "_id_" };
        };
        let mut all = vec![doc! { "deliveries.event": event }, states];
        all.extend(id.split_once('/').map(|(_, endpoint)| doc! { "endpoint": endpoint }));
        all.extend(self.keys("").map(|keys| doc! { "endpoint": between(keys) }));
        Query {
            filter: doc! { "$and": all },
            index: "events",
        }
    }

    /// Documents that hold an event of that type of the certificate.
    fn of_certificate(&self, event_type: EventType, certificate: &str, before: DateTime) -> Query {
        let events = doc! { "$elemMatch": { "event": ids_from(&event_type.id_prefix(certificate)) } };
        let mut all = vec![doc! { "deliveries": events }, self.states(before)];
        all.extend(self.keys("").map(|keys| doc! { "endpoint": between(keys) }));
        Query {
            filter: doc! { "$and": all },
            index: "events",
        }
    }

    /// The endpoints' keys that are selected, each followed by `end`: from the first to before the last. `0` comes after `/`.
    fn keys(&self, end: &str) -> Option<Range<String>> {
        let organization = self.organization.as_ref().map(|id| format!("{id}/")..format!("{id}0"));
        // No key goes on with a NUL.
        let endpoint = self.endpoint.as_ref().map(|key| match end {
            "/" => format!("{key}/")..format!("{key}0"),
            _ => key.clone()..format!("{key}\0"),
        });
        match (organization, endpoint) {
            (Some(one), Some(other)) => Some(one.start.max(other.start)..one.end.min(other.end)),
            (one, other) => one.or(other),
        }
    }
}

/// The ids of events that begin so. A digit or a minus sign follows; `:` comes after the digits.
pub(super) fn ids_from(prefix: &str) -> Document {
    doc! { "$gte": prefix, "$lt": format!("{prefix}:") }
}

fn between(keys: Range<String>) -> Document {
    doc! { "$gte": keys.start, "$lt": keys.end }
}

/// What is read of each document: no payload.
pub(super) fn fields() -> Document {
    doc! {
        "version": 1, "state": 1, "endpoint": 1, "finishedAt": 1, "attempts": 1, "reason": 1, "lastError": 1, "results": 1,
        "history.at": 1, "replays.at": 1, "payloadDropped": 1,
        "deliveries.event": 1, "deliveries.type": 1, "deliveries.occurredAt": 1, "deliveries.erased": 1,
    }
}

/// Finds the documents that may hold something selected, one query after the other.
pub struct Search {
    store: Store,
    queries: VecDeque<Query>,
    cursor: Option<Cursor<RawDocumentBuf>>,
}

impl Search {
    /// Finds what is selected, as it was before `before`.
    pub fn new(selection: &Selection, store: &Store, before: DateTime) -> Self {
        Self {
            store: store.clone(),
            queries: selection.queries(before),
            cursor: None,
        }
    }

    /// The same while others move it. A document may be found twice.
    pub fn of_moving(selection: &Selection, store: &Store, before: DateTime) -> Self {
        Self {
            store: store.clone(),
            queries: selection.queries_of_moving(before),
            cursor: None,
        }
    }

    /// The next documents, `limit` at most, without payloads; none where no more follow.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn page(&mut self, limit: usize) -> Result<Vec<RawDocumentBuf>> {
        let mut page = Vec::new();
        while page.len() < limit {
            let Some(cursor) = &mut self.cursor else {
                let Some(query) = self.queries.pop_front() else { break };
                let outbox = self.store.outbox();
                let find = outbox.find(query.filter).projection(fields()).hint(hint(query.index));
                self.cursor = Some(find.await?);
                continue;
            };
            match cursor.try_next().await? {
                Some(found) => page.push(found),
                None => self.cursor = None,
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "certificate_expired_674700000000000000000001_1000";

    fn selection(id: Option<&str>, endpoint: Option<&str>, organization: Option<&str>) -> Selection {
        Selection {
            id: id.map(str::to_owned),
            endpoint: endpoint.map(str::to_owned),
            organization: organization.map(str::to_owned),
            states: vec!["dead".into(), "delivered".into()],
            ..Selection::default()
        }
    }

    #[test]
    fn an_id_names_a_document_an_event_or_a_delivery() {
        let delivery = format!("{EVENT}/o/e");
        let document = format!("o/e/{EVENT}");
        for (id, event, index) in [
            (EVENT, Some(EVENT), "events"),
            (&delivery, Some(EVENT), "events"),
            (&document, None, "_id_"),
            ("o/e/674700000000000000000009", None, "_id_"),
        ] {
            let selection = selection(Some(id), None, None);
            let queries = selection.queries(DateTime::MAX);
            assert_eq!(
                (selection.event(), queries.len(), queries[0].index),
                (event, 1, index),
                "{id}"
            );
        }
    }

    #[test]
    fn an_endpoint_outside_of_the_organization_selects_nothing() {
        let within = |selection: &Selection| selection.keys("/").is_some_and(|keys| !keys.is_empty());
        assert!(within(&selection(None, Some("o/e"), Some("o"))));
        assert!(!within(&selection(None, Some("other/e"), Some("o"))));
        assert!(!within(&selection(None, Some("o1/e"), Some("o"))));
    }

    #[test]
    fn each_state_is_found_by_an_index_of_its_own() {
        let indexes = |selection: &Selection| {
            let queries = selection.queries(DateTime::MAX).into_iter();
            queries.map(|query| query.index).collect::<Vec<_>>()
        };
        assert_eq!(indexes(&selection(None, None, None)), ["dead", "retention"]);
        assert_eq!(indexes(&selection(None, None, Some("o"))), ["dead", "_id_"]);
    }

    #[test]
    fn what_moves_is_looked_for_where_it_goes() {
        let mut waiting = selection(None, None, Some("o"));
        waiting.states.push("pending".into());
        let classes: Vec<_> = waiting
            .queries_of_moving(DateTime::MAX)
            .iter()
            .filter_map(|query| {
                query
                    .filter
                    .get_document("queue")
                    .ok()?
                    .get_str("$regex")
                    .ok()
                    .map(str::to_owned)
            })
            .collect();
        assert_eq!(classes, ["/live$", "/retry$", "/background$", "/retry$"]);
        let mut named = selection(Some(EVENT), None, None);
        assert_eq!(
            named.queries_of_moving(DateTime::MAX).len(),
            1,
            "what has ended does not move"
        );
        named.states.push("pending".into());
        assert_eq!(named.queries_of_moving(DateTime::MAX).len(), 2);
    }
}
