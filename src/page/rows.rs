//! Rows of the page's tables.

use bson::DateTime;
use serde::Serialize;

use super::words::{ago, count, foreign, moment, span};
use crate::status::{Daemon, Endpoint, Head};

/// So many rows of a kind are shown.
const ROWS: usize = 200;

/// The first rows, and how many there are in all if that is more.
#[derive(Debug, Serialize)]
pub(super) struct Rows<T> {
    rows: Vec<T>,
    of: Option<usize>,
}

impl<T> Rows<T> {
    pub(super) fn of(mut rows: Vec<T>) -> Self {
        let of = (rows.len() > ROWS).then_some(rows.len());
        rows.truncate(ROWS);
        Self { rows, of }
    }
}

impl Rows<EndpointView> {
    /// Within both kinds they stay in the order of their organizations.
    pub(super) fn trouble_first(endpoints: impl Iterator<Item = EndpointView>) -> Self {
        let (mut rows, well): (Vec<_>, Vec<_>) = endpoints.partition(|endpoint| endpoint.bad);
        rows.extend(well);
        Self::of(rows)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct EndpointView {
    name: String,
    owner: String,
    endpoint: String,
    state: &'static str,
    why: Option<String>,
    delivered: String,
    failed: String,
    /// Of a hundred attempts those that succeeded; `None` without any.
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
    owner: String,
    endpoint: String,
    count: String,
    event: String,
    attempts: i64,
    when: String,
    moment: String,
    reason: String,
    error: String,
}

#[derive(Debug, Serialize)]
pub(super) struct DaemonView {
    id: String,
    host: String,
    pid: i64,
    version: String,
    alive: bool,
    seen: String,
    started: String,
    leases: String,
    own: bool,
}

impl EndpointView {
    pub(super) fn of(endpoint: &Endpoint, now: DateTime) -> Self {
        let attempts = endpoint.delivered + endpoint.failed_attempts;
        let failing = endpoint.last_failure > endpoint.last_success;
        let last = match (endpoint.last_success, endpoint.last_failure) {
            (_, Some(at)) if failing => format!("failed {}", ago(now, at)),
            (Some(at), _) => format!("answered {}", ago(now, at)),
            _ => String::new(),
        };
        Self {
            name: foreign(&endpoint.name),
            owner: foreign(&endpoint.owner),
            endpoint: foreign(&endpoint.endpoint),
            state: endpoint.state,
            why: endpoint.why.as_deref().map(foreign),
            delivered: count(endpoint.delivered),
            failed: count(endpoint.failed_attempts),
            rate: (attempts > 0).then(|| endpoint.delivered * 100 / attempts),
            pending: count(endpoint.pending),
            dead: count(endpoint.dead),
            cancelled: count(endpoint.cancelled),
            last,
            bad: endpoint.dead > 0 || endpoint.why.is_some() || failing,
        }
    }
}

impl HeadView {
    /// `when` is when it is due, or when it died.
    pub(super) fn of(head: &Head, when: String) -> Self {
        Self {
            name: foreign(&head.name),
            owner: foreign(&head.owner),
            endpoint: foreign(&head.endpoint),
            count: count(head.count),
            event: foreign(head.event.trim_start_matches("certificate_")),
            attempts: head.attempts,
            when,
            moment: moment(head.at),
            reason: foreign(&head.reason),
            error: foreign(&head.error),
        }
    }
}

impl DaemonView {
    pub(super) fn of(daemon: &Daemon, own: &str) -> Self {
        Self {
            id: foreign(&daemon.id),
            host: foreign(&daemon.host),
            pid: daemon.pid,
            version: foreign(&daemon.version),
            alive: daemon.alive,
            seen: format!("{} ago", span(daemon.seen_s_ago)),
            started: moment(daemon.started_at),
            leases: daemon.leases.join(", "),
            own: daemon.id == own,
        }
    }
}
