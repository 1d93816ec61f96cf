//! One change of a document of the outbox, as changes of its deliveries.
//!
//! It rests on how results are written: each under its own place (`results.3`), or all at once where none was there before.

use bson::{DateTime, RawBsonRef, RawDocument};

use crate::outbox::settled::has_result;

/// A delivery has come into a state, or stays pending after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, by the database's clock.
    pub at: DateTime,
    /// The state: `pending`, `delivered`, `dead`, `cancelled`; `rejected` also for a certificate that is no event.
    pub state: String,
    /// The type of event.
    pub event_type: String,
    /// The organization; empty for what is rejected.
    pub organization: String,
    /// The endpoint; empty for what is rejected.
    pub endpoint: String,
    /// Attempts so far. After an outage it may be ahead of the change, as may be status and reason.
    pub attempt: i32,
    /// The last response's status, where an attempt has just ended with one.
    pub status: Option<i32>,
    /// Why it is in that state, where that is not plain.
    pub reason: Option<String>,
    /// The event's id.
    pub webhook_id: String,
}

/// What became of the document's deliveries; nothing if it is no document of ours.
pub(super) fn read(seen: &RawDocument) -> Vec<Change> {
    Seen::of(seen).map(|seen| seen.changes()).unwrap_or_default()
}

/// A change of a document.
struct Seen<'a> {
    at: DateTime,
    id: &'a str,
    /// What an update has set; `None` for a document that is new.
    updated: Option<&'a RawDocument>,
    /// The document, as it was inserted or as it is by now; `None` if it was deleted.
    full: Option<&'a RawDocument>,
}

/// The event of a delivery.
#[derive(Clone, Copy, Debug, Default)]
struct EventOf<'a> {
    event: &'a str,
    event_type: &'a str,
}

/// A result that was written.
struct Written<'a> {
    place: usize,
    result: &'a RawDocument,
}

impl<'a> Seen<'a> {
    fn of(seen: &'a RawDocument) -> Option<Self> {
        let update = seen.get_document("updateDescription").ok();
        Some(Self {
            at: seen.get_datetime("wallTime").ok()?,
            id: seen.get_document("documentKey").ok()?.get_str("_id").ok()?,
            updated: update.and_then(|update| update.get_document("updatedFields").ok()),
            full: seen.get_document("fullDocument").ok(),
        })
    }

    fn changes(&self) -> Vec<Change> {
        if let Some(("rejected" | "unmarkable", event)) = self.id.split_once('/') {
            // Shown once; later updates only set when it is deleted.
            let shown = self.updated.is_none().then(|| self.rejected(event));
            return shown.into_iter().collect();
        }
        let state = match self.updated {
            Some(updated) => updated.get_str("state").ok(),
            None => self.text("state"),
        };
        // The results of what is sent again were removed.
        let results = if state == Some("pending") {
            Vec::new()
        } else {
            self.written()
        };
        let mut changes: Vec<_> = results.iter().filter_map(|written| self.settled(written)).collect();
        let attempted = self.attempted() && results.is_empty();
        let state = state
            .filter(|state| *state != "delivered")
            .or(attempted.then_some("pending"));
        if let Some(state) = state {
            let deliveries = self.deliveries();
            let alone = deliveries.len() == 1;
            let open = deliveries
                .into_iter()
                .enumerate()
                .filter(|(place, _)| alone || self.is_open(*place));
            changes.extend(open.filter_map(|(_, delivery)| self.change(delivery, state)));
        }
        changes
    }

    /// The certificate that can't be an event, or can't be marked.
    fn rejected(&self, event: &str) -> Change {
        Change {
            at: self.at,
            state: "rejected".into(),
            event_type: self.text("type").unwrap_or_default().to_owned(),
            organization: String::new(),
            endpoint: String::new(),
            attempt: 0,
            status: None,
            reason: self.text("reason").map(str::to_owned),
            webhook_id: event.to_owned(),
        }
    }

    /// A delivery of which a result was written. One that moved is shown by its own document.
    fn settled(&self, written: &Written<'_>) -> Option<Change> {
        let delivery = *self.deliveries().get(written.place)?;
        let Ok(status) = written.result.get_i32("status") else {
            let cancelled = written.result.get_bool("cancelled").unwrap_or(false);
            return cancelled.then(|| self.change(delivery, "cancelled")).flatten();
        };
        Some(Change {
            attempt: self.number("attempts").unwrap_or(1),
            status: Some(status),
            reason: None,
            ..self.change(delivery, "delivered")?
        })
    }

    fn change(&self, delivery: EventOf<'_>, state: &str) -> Option<Change> {
        let mut parts = self.id.splitn(3, '/');
        let (organization, endpoint) = (parts.next()?, parts.next()?);
        parts.next()?;
        Some(Change {
            at: self.at,
            event_type: delivery.event_type.to_owned(),
            organization: organization.to_owned(),
            endpoint: endpoint.to_owned(),
            attempt: self.number("attempts").unwrap_or(0),
            status: self.attempted().then(|| self.number("lastStatus")).flatten(),
            reason: self.reason(state),
            webhook_id: delivery.event.to_owned(),
            state: state.to_owned(),
        })
    }

    fn reason(&self, state: &str) -> Option<String> {
        let error = self.text("lastError");
        match state {
            "pending" if self.attempted() => error.map(str::to_owned),
            // Only what had ended comes into this state.
            "pending" if self.updated.is_some() => {
                let redriven = self.full.is_some_and(|full| full.get_bool("redriven").unwrap_or(false));
                Some(if redriven { "redrive" } else { "replay" }.into())
            }
            "dead" => {
                let verdict = self.text("reason")?;
                Some(error.map_or(verdict.to_owned(), |error| format!("{verdict}: {error}")))
            }
            "cancelled" | "rejected" => self.text("reason").map(str::to_owned),
            _ => None,
        }
    }

    /// Whether an attempt has just ended.
    fn attempted(&self) -> bool {
        let fields = self.updated.or(self.full);
        fields.is_some_and(|fields| fields.get_datetime("lastAttemptAt").is_ok())
    }

    /// The results that were written, by their places.
    fn written(&self) -> Vec<Written<'a>> {
        let mut written = Vec::new();
        for (name, value) in self.updated.into_iter().flatten().flatten() {
            match (name.as_str().strip_prefix("results"), value) {
                (Some(""), RawBsonRef::Array(results)) => {
                    let results = results.into_iter().enumerate();
                    written.extend(results.filter_map(|(place, result)| {
                        let result = result.ok()?.as_document()?;
                        Some(Written { place, result })
                    }));
                }
                (Some(place), RawBsonRef::Document(result)) => {
                    let place = place.strip_prefix('.').and_then(|place| place.parse().ok());
                    written.extend(place.map(|place| Written { place, result }));
                }
                _ => {}
            }
        }
        written.sort_by_key(|written| written.place);
        written
    }

    /// The event of each delivery; an empty one where it can't be read.
    fn deliveries(&self) -> Vec<EventOf<'a>> {
        let deliveries = self.full.and_then(|full| full.get_array("deliveries").ok());
        let read = |delivery: RawBsonRef<'a>| {
            let delivery = delivery.as_document()?;
            Some(EventOf {
                event: delivery.get_str("event").ok()?,
                event_type: delivery.get_str("type").ok()?,
            })
        };
        let deliveries = deliveries.into_iter().flatten().flatten();
        deliveries.map(|delivery| read(delivery).unwrap_or_default()).collect()
    }

    fn is_open(&self, place: usize) -> bool {
        let results = self.full.and_then(|full| full.get_array("results").ok());
        !has_result(results, place)
    }

    /// What was updated, and else what it is now.
    fn text(&self, field: &str) -> Option<&'a str> {
        let read = |document: &'a RawDocument| document.get_str(field).ok();
        self.updated.and_then(read).or_else(|| self.full.and_then(read))
    }

    fn number(&self, field: &str) -> Option<i32> {
        let read = |document: &'a RawDocument| document.get_i32(field).ok();
        self.updated.and_then(read).or_else(|| self.full.and_then(read))
    }
}
