//! Rows of the page's tables.

use std::collections::HashMap;

use bson::DateTime;
use serde::Serialize;

use super::words::{ago, count, foreign, moment, span};
use crate::status::{Endpoint, Head, Instance, Status};

/// This many rows of a kind are shown.
const ROWS: usize = 200;

/// The first rows, and how many there are in all if that is more.
#[derive(Debug, Serialize)]
pub(super) struct Rows<T> {
    rows: Vec<T>,
    of: Option<usize>,
}

impl<T> Rows<T> {
    /// Rows for the first of `all`.
    pub(super) fn of<'a, S: 'a>(all: impl IntoIterator<Item = &'a S>, row: impl Fn(&'a S) -> T) -> Self {
        let mut all = all.into_iter();
        let rows: Vec<_> = all.by_ref().take(ROWS).map(row).collect();
        let count = rows.len() + all.count();
        Self { rows, of: None }.in_all(count)
    }

    /// Says that there are `count`.
    pub(super) fn in_all(self, count: usize) -> Self {
        let of = (count > self.rows.len()).then_some(count);
        Self { of, ..self }
    }
}

impl Rows<EndpointView> {
    /// Endpoints with trouble first, each kind in the order of the organizations.
    pub(super) fn trouble_first(status: &Status) -> Self {
        let (bad, well): (Vec<_>, Vec<_>) = status.endpoints.iter().partition(|endpoint| is_bad(endpoint));
        // What is pending failed later than what is dead.
        let heads = status.dead_letters.iter().chain(&status.next);
        let errors: HashMap<_, _> = heads
            .filter(|head| !head.error.is_empty())
            .map(|head| ((&*head.organization, &*head.endpoint), &*head.error))
            .collect();
        Self::of(bad.into_iter().chain(well), |endpoint| {
            let error = errors.get(&(&*endpoint.organization, &*endpoint.endpoint));
            EndpointView::of(endpoint, status.at, error.copied())
        })
    }
}

/// Whether it needs somebody to look at it.
fn is_bad(endpoint: &Endpoint) -> bool {
    endpoint.needs_a_look()
}

#[derive(Debug, Serialize)]
pub(super) struct EndpointView {
    name: String,
    organization: String,
    endpoint: String,
    state: &'static str,
    why: Option<String>,
    /// Whether its state needs somebody to look at it.
    stands_out: bool,
    warnings: Vec<String>,
    delivered: String,
    failed: String,
    /// Attempts that succeeded, in percent; `None` without any.
    rate: Option<i64>,
    pending: String,
    dead: String,
    cancelled: String,
    last: String,
    bad: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct HeadView {
    name: String,
    organization: String,
    endpoint: String,
    count: String,
    event: String,
    attempts: i64,
    when: String,
    moment: String,
    /// How a dead letter goes out again.
    again: &'static str,
    reason: String,
    error: String,
}

#[derive(Debug, Serialize)]
pub(super) struct InstanceView {
    id: String,
    host: String,
    pid: i64,
    version: String,
    state: &'static str,
    alive: bool,
    seen: String,
    started: String,
    lease: &'static str,
    own: bool,
}

impl EndpointView {
    /// `error` is why its last attempts failed, if that is known.
    fn of(endpoint: &Endpoint, now: DateTime, error: Option<&str>) -> Self {
        let fails = endpoint.state == "served" && endpoint.is_failing();
        let attempts = endpoint.delivered + endpoint.failed_attempts;
        let last = match (endpoint.last_success, endpoint.last_failure) {
            (_, Some(at)) if endpoint.is_failing() => format!("failed {}", ago(now, at)),
            (Some(at), _) => format!("delivered {}", ago(now, at)),
            _ => String::new(),
        };
        Self {
            name: foreign(&endpoint.name),
            organization: foreign(&endpoint.organization),
            endpoint: foreign(&endpoint.endpoint),
            state: if fails { "failing" } else { endpoint.state },
            why: endpoint.why.as_deref().or(error.filter(|_| fails)).map(foreign),
            stands_out: fails || endpoint.why.is_some(),
            warnings: endpoint.warnings.iter().map(|warning| foreign(warning)).collect(),
            delivered: count(endpoint.delivered),
            failed: count(endpoint.failed_attempts),
            rate: (attempts > 0).then(|| endpoint.delivered * 100 / attempts),
            pending: count(endpoint.pending),
            dead: count(endpoint.dead),
            cancelled: count(endpoint.cancelled),
            last,
            bad: is_bad(endpoint),
        }
    }
}

impl HeadView {
    /// `when` is when it is due, or when it died.
    pub(super) fn of(head: &Head, when: String) -> Self {
        Self {
            name: foreign(&head.name),
            organization: foreign(&head.organization),
            endpoint: foreign(&head.endpoint),
            count: count(head.count),
            event: foreign(head.event.trim_start_matches("certificate_")),
            attempts: head.attempts,
            when,
            moment: moment(head.at),
            again: match head.redrivable {
                Some(true) => "when its endpoint succeeds",
                Some(false) => "only with replay",
                None => "",
            },
            reason: foreign(&head.reason),
            error: foreign(&head.error),
        }
    }
}

impl InstanceView {
    pub(super) fn of(instance: &Instance, own: &str) -> Self {
        Self {
            id: foreign(&instance.id),
            host: foreign(&instance.host),
            pid: instance.pid,
            version: foreign(&instance.version),
            state: instance.state,
            alive: instance.state != "dead",
            seen: format!("{} ago", span(instance.seen_s_ago)),
            started: moment(instance.started_at),
            lease: if instance.holds_lease { "source" } else { "" },
            own: instance.id == own,
        }
    }
}
