//! Rows of the page's tables.

use std::collections::HashMap;

use bson::DateTime;
use serde::Serialize;

use super::links::to_endpoint;
use super::words::{ago, count, foreign, moment, span};
use crate::operations::{Hold, Target};
use crate::status::{Endpoint, Head, Instance, Operation, Status};

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
    link: Option<String>,
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
    link: Option<String>,
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
pub(super) struct HoldView {
    link: Option<String>,
    target: String,
    by: String,
    since: String,
    until: String,
    reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct OperationView {
    id: String,
    kind: String,
    state: String,
    bad: bool,
    done: String,
    at: String,
    by: String,
    /// What it was refused or has failed for, or else why it was asked for.
    why: String,
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
    pub(super) fn of(endpoint: &Endpoint, now: DateTime, error: Option<&str>) -> Self {
        let fails = endpoint.state == "served" && endpoint.is_failing();
        let attempts = endpoint.delivered + endpoint.failed_attempts;
        let last = match (endpoint.last_success, endpoint.last_failure) {
            (_, Some(at)) if endpoint.is_failing() => format!("failed {}", ago(now, at)),
            (Some(at), _) => format!("delivered {}", ago(now, at)),
            _ => String::new(),
        };
        Self {
            link: to_endpoint(&endpoint.organization, &endpoint.endpoint),
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
            link: to_endpoint(&head.organization, &head.endpoint),
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

impl HoldView {
    pub(super) fn of(hold: &Hold) -> Self {
        let link = match &hold.target {
            Target::Endpoint(key) => to_endpoint(key.organization(), key.endpoint()),
            Target::All | Target::Organization(_) => None,
        };
        Self {
            link,
            target: foreign(&hold.target.to_string()),
            by: foreign(&hold.by),
            since: hold.at.map_or_else(String::new, moment),
            until: hold.until.map_or_else(|| "it is released".into(), moment),
            reason: foreign(&hold.reason),
        }
    }
}

impl OperationView {
    pub(super) fn of(operation: &Operation) -> Self {
        let of = operation.of.map_or_else(String::new, |of| format!(" of {}", count(of)));
        let at = operation.finished_at.or(operation.started_at);
        Self {
            id: foreign(&operation.id),
            kind: foreign(&operation.kind),
            state: foreign(&operation.state),
            bad: operation.error.is_some(),
            done: count(operation.done) + &of,
            at: at.map_or_else(String::new, moment),
            by: foreign(&operation.by),
            why: foreign(operation.error.as_deref().unwrap_or(&operation.reason)),
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
