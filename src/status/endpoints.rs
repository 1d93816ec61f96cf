//! The endpoints: what is configured, and how they have responded lately.

use std::collections::HashMap;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::{Day, Head, find, instant, number, rfc3339_if_known, text};
use crate::model::{EndpointKey, count};
use crate::notices::{Noted, all_episodes};
use crate::operations::Holds;
use crate::platform::{Directory, Found};
use crate::store::{Result, Store};

/// This many days are summed up, today's (UTC) among them.
pub const DAYS: i64 = 7;

pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// One endpoint. What it was sent is counted over [`DAYS`].
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// The organization's `_ownerId`.
    pub organization: String,
    /// Its `_id`.
    pub endpoint: String,
    /// What the organization calls it.
    pub name: String,
    /// `served`, `off`, `out of service`, `held`, `suspended` or `deleted`.
    pub state: &'static str,
    /// Why it is out of service, held or suspended.
    pub why: Option<String>,
    /// What of its configuration is not applied as it is written, e.g. an event type that is unknown.
    pub warnings: Vec<String>,
    /// Deliveries that it accepted.
    pub delivered: i64,
    /// Attempts that failed.
    pub failed_attempts: i64,
    /// Deliveries that are pending now.
    pub pending: i64,
    /// Dead letters that are kept now.
    #[serde(rename = "dead_letters")]
    pub dead: i64,
    /// Deliveries that ended because it was deleted or disabled.
    pub cancelled: i64,
    /// When it last accepted one.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub last_success: Option<DateTime>,
    /// When an attempt last failed.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub last_failure: Option<DateTime>,
    /// What failed then.
    pub last_failure_reason: String,
}

impl Endpoint {
    /// Whether its last attempt failed, as far as that was recorded.
    pub fn is_failing(&self) -> bool {
        self.last_failure > self.last_success
    }

    fn is_served_and_failing(&self) -> bool {
        self.state == "served" && self.is_failing()
    }

    /// The worst that somebody must look at, in one line of text from outside. `None`: nothing.
    pub fn trouble(&self) -> Option<String> {
        if let Some(why) = &self.why {
            return Some(format!("{}: {why}", self.state));
        }
        if self.is_served_and_failing() {
            return Some(format!("failing: {}", self.last_failure_reason));
        }
        (self.dead > 0).then(|| count(self.dead.unsigned_abs(), "dead letter"))
    }

    /// Whether somebody must look at it.
    pub fn needs_a_look(&self) -> bool {
        self.severity() < 4
    }

    /// Out of service before failing before dead letters before what is not quite configured; what is well last.
    pub fn severity(&self) -> u8 {
        match () {
            () if self.why.is_some() => 0,
            () if self.is_served_and_failing() => 1,
            () if self.dead > 0 => 2,
            () if !self.warnings.is_empty() => 3,
            () => 4,
        }
    }
}

/// Every endpoint that is configured, was sent something lately, or has something kept; by organization.
pub(super) async fn endpoints(
    store: &Store,
    known: &Known<'_>,
    dead: &[Head],
    waiting: &HashMap<EndpointKey, i64>,
) -> Result<Vec<Endpoint>> {
    let (directory, now) = (known.directory, known.at);
    let mut endpoints = Endpoints {
        known,
        all: HashMap::new(),
    };
    for key in directory.keys().into_iter().chain(directory.own()) {
        endpoints.get(&key);
    }
    for figures in figures(store, now).await? {
        let key = figures
            .get_document("_id")
            .map(|id| format!("{}/{}", text(id, "organization"), text(id, "endpoint")));
        let Ok(key) = key else { continue };
        endpoints.get(&EndpointKey::from_stored(&key)).add(&figures);
    }
    for head in dead {
        let key = format!("{}/{}", head.organization, head.endpoint);
        endpoints.get(&EndpointKey::from_stored(&key)).dead = head.count;
    }
    for (key, count) in waiting {
        endpoints.get(key).pending = *count;
    }
    let mut all: Vec<_> = endpoints.all.into_values().collect();
    all.sort_by(|a, b| (&a.organization, &a.endpoint).cmp(&(&b.organization, &b.endpoint)));
    Ok(all)
}

/// What is known of endpoints, beside what became of their deliveries.
pub(crate) struct Known<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) holds: Holds,
    pub(crate) suspended: Suspended,
    pub(crate) at: DateTime,
}

/// Why endpoints are suspended.
pub(crate) type Suspended = HashMap<EndpointKey, String>;

/// Reads which endpoints are suspended.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub(crate) async fn suspended(store: &Store) -> Result<Suspended> {
    let found: Vec<Document> = store.state().find(all_episodes()).await?.try_collect().await?;
    let why = |document| {
        let (endpoint, noted) = Noted::read(document)?;
        let (since, why) = noted.suspended()?;
        let since = since.try_to_rfc3339_string().unwrap_or_default();
        Some((endpoint, format!("since {since}: {why}")))
    };
    Ok(found.iter().filter_map(why).collect())
}

struct Endpoints<'a> {
    known: &'a Known<'a>,
    all: HashMap<EndpointKey, Endpoint>,
}

impl Endpoints<'_> {
    fn get(&mut self, key: &EndpointKey) -> &mut Endpoint {
        self.all.entry(key.clone()).or_insert_with(|| describe(self.known, key))
    }
}

impl Endpoint {
    /// Adds what it was sent on these days.
    pub(crate) fn add_days(&mut self, days: &[Day]) {
        for day in days {
            self.delivered += day.delivered;
            self.failed_attempts += day.failed_attempts;
            self.cancelled += day.cancelled;
            self.last_success = self.last_success.max(day.last_success);
            if day.last_failure > self.last_failure {
                self.last_failure = day.last_failure;
                self.last_failure_reason.clone_from(&day.last_failure_reason);
            }
        }
    }

    fn add(&mut self, figures: &Document) {
        self.delivered += number(figures, "successes");
        self.failed_attempts += number(figures, "failures");
        self.cancelled += number(figures, "cancelled");
        self.last_success = instant(figures, "lastSuccess");
        self.last_failure = instant(figures, "lastFailure");
        self.last_failure_reason = text(figures, "lastFailureReason");
    }
}

/// The statistics of the last days, summed up by endpoint. Served by the index on the day.
async fn figures(store: &Store, now: DateTime) -> Result<Vec<Document>> {
    let today = now.timestamp_millis().div_euclid(DAY_MS);
    let first = DateTime::from_millis((today - DAYS + 1) * DAY_MS);
    let sum = |field| doc! { "$sum": field };
    let pipeline = [
        doc! { "$match": { "day": { "$gte": first } } },
        doc! { "$group": {
            "_id": { "organization": "$organization", "endpoint": "$endpoint" },
            "successes": sum("$successes"), "failures": sum("$failures"), "cancelled": sum("$cancelled"),
            "lastSuccess": { "$max": "$lastSuccess" }, "lastFailure": { "$max": "$lastFailure" },
            // The latest failure: documents are compared by their first field, the instant.
            "failure": { "$max": { "at": "$lastFailure", "why": "$lastFailureReason" } },
        } },
        doc! { "$set": { "lastFailureReason": "$failure.why" } },
    ];
    Ok(store.statistics().aggregate(pipeline).await?.try_collect().await?)
}

/// What is known of an endpoint without its deliveries.
pub(crate) fn describe(known: &Known<'_>, key: &EndpointKey) -> Endpoint {
    let directory = known.directory;
    let (state, why) = match find(directory, key) {
        Some(Found::Served(_) | Found::Email { enabled: true }) => match known.holds.of(key, known.at) {
            Some(hold) => ("held", Some(hold.describe())),
            None => match known.suspended.get(key) {
                Some(why) => ("suspended", Some(why.clone())),
                None => ("served", None),
            },
        },
        Some(Found::OutOfService { reason }) => ("out of service", Some(reason)),
        Some(Found::Off { .. } | Found::Email { enabled: false }) => ("off", None),
        None => ("deleted", None),
    };
    Endpoint {
        organization: key.organization().to_owned(),
        endpoint: key.endpoint().to_owned(),
        name: directory.name(key),
        state,
        why,
        warnings: directory.warnings(key, known.at),
        delivered: 0,
        failed_attempts: 0,
        pending: 0,
        dead: 0,
        cancelled: 0,
        last_success: None,
        last_failure: None,
        last_failure_reason: String::new(),
    }
}
