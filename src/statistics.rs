//! Figures for the platform's back office, per endpoint and day (UTC): see docs/statistics.md.
//!
//! Pure: the recorder runs these rows of an `update` in the transaction that writes the results, so each result counts once.

use std::collections::BTreeMap;

use bson::{DateTime, RawDocumentBuf, cstr, rawdoc};

use crate::model::EndpointKey;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What is added to the figures of one endpoint and day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Deliveries that the endpoint accepted.
    pub successes: i64,
    /// Attempts that failed.
    pub failures: i64,
    /// Deliveries that became dead letters.
    pub dead: i64,
    /// Deliveries that ended because their endpoint was deleted or disabled. Negative where one was delivered all the same.
    pub cancelled: i64,
    pub last_success: Option<DateTime>,
    /// When the last failure was, and what failed.
    pub last_failure: Option<(DateTime, String)>,
}

/// What is added to the figures of several endpoints, all at one instant.
#[derive(Clone, Debug, Default)]
pub struct Additions(BTreeMap<EndpointKey, Figures>);

impl Additions {
    pub fn of(&mut self, endpoint: &EndpointKey) -> &mut Figures {
        self.0.entry(endpoint.clone()).or_default()
    }

    /// One row of an `update` command per endpoint, for the day of `now`.
    pub fn rows(&self, now: DateTime) -> Vec<RawDocumentBuf> {
        self.0
            .iter()
            .map(|(endpoint, figures)| figures.row(endpoint, now))
            .collect()
    }
}

impl Figures {
    fn row(&self, endpoint: &EndpointKey, now: DateTime) -> RawDocumentBuf {
        let counts = rawdoc! {
            "successes": self.successes, "failures": self.failures, "dead": self.dead, "cancelled": self.cancelled,
        };
        let mut update = rawdoc! {
            "$inc": counts,
            "$setOnInsert": { "organization": endpoint.organization(), "endpoint": endpoint.endpoint(), "day": day(now) },
        };
        if let Some(at) = self.last_success {
            update.append(cstr!("$max"), rawdoc! { "lastSuccess": at });
        }
        if let Some((at, reason)) = &self.last_failure {
            update.append(
                cstr!("$set"),
                rawdoc! { "lastFailure": *at, "lastFailureReason": reason.as_str() },
            );
        }
        rawdoc! { "q": { "_id": id(endpoint, now) }, "u": update, "upsert": true }
    }
}

/// The `_id` of the figures of that endpoint and of that instant's day.
pub(crate) fn id(endpoint: &EndpointKey, at: DateTime) -> String {
    let day = day(at).try_to_rfc3339_string().unwrap_or_default();
    format!("{endpoint}/{}", day.split('T').next().unwrap_or_default())
}

/// When that instant's day began.
pub(crate) fn day(at: DateTime) -> DateTime {
    DateTime::from_millis(at.timestamp_millis().div_euclid(DAY_MS) * DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_utc() {
        let at = |text| DateTime::parse_rfc3339_str(text).unwrap();
        let id = |text| id(&EndpointKey::from_stored("organization/endpoint"), at(text));
        assert_eq!(id("2026-11-24T23:59:59.999Z"), "organization/endpoint/2026-11-24");
        assert_eq!(id("2026-11-25T00:00:00Z"), "organization/endpoint/2026-11-25");
        assert_eq!(id("2026-11-25T00:30:00+01:00"), "organization/endpoint/2026-11-24");
        assert_eq!(day(at("2026-11-24T23:59:59.999Z")), at("2026-11-24T00:00:00Z"));
        assert_eq!(day(DateTime::from_millis(-1)), at("1969-12-31T00:00:00Z"));
    }
}
