//! One endpoint's figures of one day, and the row that adds to them.

use bson::{DateTime, RawBson, RawDocumentBuf, cstr, rawdoc};

use crate::model::EndpointKey;
use crate::outbox::{Entry, Group, Kind};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What is to be added to the figures of one endpoint and day.
#[derive(Debug)]
pub(super) struct Figures {
    /// Who recorded the results.
    owner: String,
    /// The first of its groups that are in here, and the last.
    groups: (i64, i64),
    day: DateTime,
    successes: i64,
    failures: i64,
    dead: i64,
    cancelled: i64,
    last_success: Option<DateTime>,
    last_failure: Option<(DateTime, String)>,
}

/// The `_id` of the figures of that endpoint and of that instant's day, UTC.
pub(super) fn id(endpoint: &str, at: DateTime) -> String {
    let day = day(at).try_to_rfc3339_string().unwrap_or_default();
    format!("{endpoint}/{}", day.split('T').next().unwrap_or_default())
}

/// The beginning of that instant's day, UTC.
fn day(at: DateTime) -> DateTime {
    DateTime::from_millis(at.timestamp_millis().div_euclid(DAY_MS) * DAY_MS)
}

impl Figures {
    /// None yet, of this group's day.
    pub(super) fn from(group: &Group) -> Self {
        Self {
            owner: group.owner.clone(),
            groups: (group.number, group.number),
            day: day(group.at),
            successes: 0,
            failures: 0,
            dead: 0,
            cancelled: 0,
            last_success: None,
            last_failure: None,
        }
    }

    /// Adds a result of this group, which is the last of those added so far or a later one.
    pub(super) fn add(&mut self, group: &Group, entry: &Entry) {
        self.groups.1 = group.number;
        match entry.kind {
            Kind::Delivered => {
                self.successes += 1;
                self.last_success = self.last_success.max(Some(group.at));
            }
            Kind::Failed => self.fail(group, entry),
            Kind::Dead => {
                self.fail(group, entry);
                self.dead += 1;
            }
            Kind::Cancelled => self.cancelled += 1,
        }
    }

    fn fail(&mut self, group: &Group, entry: &Entry) {
        self.failures += 1;
        self.last_failure = Some((group.at, entry.reason.clone().unwrap_or_default()));
    }

    /// The row of an `update` command that adds all; it changes nothing where the document holds the first group already, or
    /// a later one.
    pub(super) fn row(&self, id: &str) -> RawDocumentBuf {
        let counted = rawdoc! { "$getField": { "field": self.owner.as_str(), "input": "$counted" } };
        let counted = rawdoc! { "$ifNull": [counted, RawBson::Int64(0)] };
        let fresh = rawdoc! { "$lt": [counted, self.groups.0] };
        let sum = rawdoc! { "$mergeObjects": ["$$ROOT", self.sum(id)] };
        let update = rawdoc! { "$replaceWith": { "$cond": [fresh, sum, "$$ROOT"] } };
        rawdoc! { "q": { "_id": id }, "u": [update], "upsert": true }
    }

    /// The fields as they are with all that is in here.
    fn sum(&self, id: &str) -> RawDocumentBuf {
        let key = EndpointKey::from_stored(id.rsplit_once('/').map_or(id, |(key, _)| key));
        let groups = rawdoc! { "$ifNull": ["$counted", { "$literal": {} }] };
        let mut sum = rawdoc! {
            "owner": key.owner(),
            "endpoint": key.endpoint(),
            "day": self.day,
            "successes": plus("$successes", self.successes),
            "failures": plus("$failures", self.failures),
            "dead": plus("$dead", self.dead),
            "cancelled": plus("$cancelled", self.cancelled),
            "counted": { "$setField": { "field": self.owner.as_str(), "input": groups, "value": self.groups.1 } },
        };
        if let Some(at) = self.last_success {
            sum.append(cstr!("lastSuccess"), rawdoc! { "$max": ["$lastSuccess", at] });
        }
        if let Some((at, reason)) = &self.last_failure {
            let later = rawdoc! { "$gt": ["$lastFailure", *at] };
            let reason = rawdoc! { "$cond": [later, "$lastFailureReason", { "$literal": reason.as_str() }] };
            sum.append(cstr!("lastFailure"), rawdoc! { "$max": ["$lastFailure", *at] });
            sum.append(cstr!("lastFailureReason"), reason);
        }
        sum
    }
}

fn plus(figure: &str, more: i64) -> RawDocumentBuf {
    rawdoc! { "$add": [{ "$ifNull": [figure, RawBson::Int64(0)] }, more] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_utc() {
        let at = |text| DateTime::parse_rfc3339_str(text).unwrap();
        let id = |text| id("owner/endpoint", at(text));
        assert_eq!(id("2026-11-24T23:59:59.999Z"), "owner/endpoint/2026-11-24");
        assert_eq!(id("2026-11-25T00:00:00Z"), "owner/endpoint/2026-11-25");
        assert_eq!(id("2026-11-25T00:30:00+01:00"), "owner/endpoint/2026-11-24");
        assert_eq!(day(at("2026-11-24T23:59:59.999Z")), at("2026-11-24T00:00:00Z"));
        assert_eq!(day(DateTime::from_millis(-1)), at("1969-12-31T00:00:00Z"));
    }
}
