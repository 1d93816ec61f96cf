//! How an episode is written into `webhook_state`: as `episode` of the document `episode/KEY`. An endpoint that does not fail has none, so a
//! query for those that fail reads no others. Beside it `suspensions` says when the endpoint was suspended before, for dead letters grow no
//! older meanwhile.

use std::time::Duration;

use bson::{DateTime, Document, doc};

use super::episode::{Episode, FailedAttempt, Suspension};
use crate::model::{EndpointKey, Period, earlier, later, read_periods};

/// The filter for all episode documents.
pub fn all_episodes() -> Document {
    doc! { "_id": { "$gte": "episode/", "$lt": "episode0" } }
}

/// The filter for episode documents that say nothing but when an endpoint was suspended, longer ago than `kept`.
pub fn forgotten_episodes(now: DateTime, kept: Duration) -> Document {
    let since = earlier(now, kept);
    let mut filter = all_episodes();
    filter.extend(doc! { "episode": { "$exists": false }, "suspensions.until": { "$not": { "$gte": since } } });
    filter
}

/// The `_id` of an endpoint's episode.
pub fn episode_id(endpoint: &EndpointKey) -> String {
    format!("episode/{endpoint}")
}

/// The filter for an episode document that notes a probe of that instant, and the update that takes it back.
pub fn unprobed(endpoint: &EndpointKey, probed_at: DateTime) -> (Document, Document) {
    let is_noted = doc! { "_id": episode_id(endpoint), "episode.suspended.probedAt": probed_at };
    let take_back = doc! { "$unset": { "episode.suspended.probedAt": 1 }, "$inc": { "episode.version": 1_i64 } };
    (is_noted, take_back)
}

/// What an episode document says.
#[derive(Clone, Debug)]
pub struct Noted {
    /// Raised by every write of the episode; 0 while there is none.
    pub version: i64,
    pub episode: Option<Episode>,
    /// When the endpoint was suspended before, also in episodes that have ended.
    pub past: Vec<Period>,
}

/// An endpoint keeps this many of its earlier suspensions.
pub const PAST_SUSPENSIONS: i32 = 100;

/// What the state document of an endpoint says of its dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// How many the platform was not told of.
    pub dead: i64,
    /// Those of them that don't go out again by themselves.
    pub kept: i64,
    /// When the platform was last told of some.
    pub told_at: Option<DateTime>,
}

impl Untold {
    /// Reads the state document of an endpoint.
    pub fn read(document: &Document) -> Self {
        Self {
            dead: number(document, "deadUntold"),
            kept: number(document, "keptUntold"),
            told_at: document.get_datetime("deadToldAt").ok().copied(),
        }
    }

    /// When the platform may be told of them, at most once in `every`. What it was told later than `now` it was by another clock.
    pub fn next(&self, every: Duration, now: DateTime) -> DateTime {
        let told_at = self.told_at.filter(|at| *at <= now);
        told_at.map_or(now, |at| later(at, every))
    }
}

impl Noted {
    /// Reads an episode document; `None` for another.
    pub fn read(document: &Document) -> Option<(EndpointKey, Self)> {
        let key = document.get_str("_id").ok()?.strip_prefix("episode/")?;
        let noted = document.get_document("episode").ok();
        let noted = Self {
            version: noted.map_or(0, |episode| number(episode, "version")),
            episode: noted.and_then(read),
            past: read_periods(document, "suspensions"),
        };
        Some((EndpointKey::from_stored(key), noted))
    }

    /// When the endpoint was suspended, up to `now`.
    pub fn suspensions(&self, now: DateTime) -> Vec<Period> {
        let episode = self.episode.as_ref();
        let last = episode.and_then(Episode::suspended_since).map(|since| (since, now));
        self.past.iter().copied().chain(last).collect()
    }

    /// Since when the endpoint is suspended, and why.
    pub fn suspended(&self) -> Option<(DateTime, String)> {
        let episode = self.episode.as_ref()?;
        let suspension = episode.suspended.as_ref()?;
        let why = match suspension.is_gone {
            true => "it responded with 410 Gone".to_owned(),
            false => format!(
                "nothing but failures since {}, {} of them, the last: {}",
                episode.since.try_to_rfc3339_string().unwrap_or_default(),
                episode.failures,
                episode.last.reason
            ),
        };
        Some((suspension.since, why))
    }
}

/// The value of the field `episode`.
pub(super) fn write(episode: &Episode, version: i64) -> Document {
    let last = &episode.last;
    let mut document = doc! {
        "version": version, "since": episode.since, "failures": episode.failures, "inARow": episode.in_a_row,
        "inARowSince": episode.in_a_row_since, "told": episode.is_told, "delivered": episode.delivered,
        "last": {
            "at": last.at, "status": last.status.map(i32::from), "error": &last.reason, "event": &last.event,
        },
    };
    if let Some(at) = episode.well_since {
        document.insert("wellSince", at);
    }
    if let Some(suspension) = &episode.suspended {
        let mut suspended = doc! {
            "since": suspension.since, "gone": suspension.is_gone, "fingerprint": suspension.fingerprint.cast_signed(),
        };
        suspended.extend(suspension.probed_at.map(|at| ("probedAt".to_owned(), at.into())));
        document.insert("suspended", suspended);
    }
    document
}

fn read(document: &Document) -> Option<Episode> {
    let since = *document.get_datetime("since").ok()?;
    let instant = |field| document.get_datetime(field).ok().copied();
    let last = document.get_document("last").ok();
    let text = |field| last.and_then(|last| last.get_str(field).ok()).unwrap_or_default();
    let status = last.map(|last| number(last, "status")).unwrap_or_default();
    Some(Episode {
        since,
        failures: number(document, "failures"),
        in_a_row: number(document, "inARow"),
        in_a_row_since: instant("inARowSince").unwrap_or(since),
        last: FailedAttempt {
            at: last
                .and_then(|last| last.get_datetime("at").ok().copied())
                .unwrap_or(since),
            status: u16::try_from(status).ok().filter(|status| *status > 0),
            reason: text("error").to_owned(),
            event: text("event").to_owned(),
        },
        is_told: document.get_bool("told").unwrap_or(false),
        well_since: instant("wellSince"),
        delivered: number(document, "delivered"),
        suspended: document.get_document("suspended").ok().and_then(read_suspension),
    })
}

fn read_suspension(document: &Document) -> Option<Suspension> {
    Some(Suspension {
        since: *document.get_datetime("since").ok()?,
        is_gone: document.get_bool("gone").unwrap_or(false),
        fingerprint: number(document, "fingerprint").cast_unsigned(),
        probed_at: document.get_datetime("probedAt").ok().copied(),
    })
}

fn number(document: &Document, field: &str) -> i64 {
    let number = document.get_i64(field);
    number.or_else(|_| document.get_i32(field).map(i64::from)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_told_of_dead_letters_once_in_a_while_whatever_clock_it_was_told_by() {
        let (at, every) = (DateTime::from_millis, Duration::from_millis(100));
        // When it was told, and when it may be told again: at 1000.
        let table = [
            (None, 1_000),
            (Some(0), 100),
            (Some(950), 1_050),
            (Some(1_000), 1_100),
            (Some(1_001), 1_000),
            (Some(86_400_000), 1_000),
            (Some(i64::MAX), 1_000),
        ];
        for (told, next) in table {
            let untold = Untold {
                told_at: told.map(at),
                ..Untold::default()
            };
            assert_eq!(untold.next(every, at(1_000)), at(next), "{told:?}");
        }
    }

    #[test]
    fn an_episode_is_read_as_it_was_written() {
        let at = DateTime::from_millis;
        let suspension = Suspension {
            since: at(5),
            is_gone: true,
            fingerprint: u64::MAX - 1,
            probed_at: Some(at(6)),
        };
        let well = Episode {
            since: at(1),
            failures: 12,
            in_a_row: 0,
            in_a_row_since: at(2),
            last: FailedAttempt {
                at: at(3),
                status: Some(503),
                reason: "status 503".into(),
                event: "e".into(),
            },
            is_told: true,
            well_since: Some(at(4)),
            delivered: 7,
            suspended: None,
        };
        let suspended = Episode {
            well_since: None,
            suspended: Some(suspension),
            last: FailedAttempt {
                status: None,
                ..well.last.clone()
            },
            ..well.clone()
        };
        for episode in [well, suspended] {
            let document = doc! { "_id": "episode/a/b", "episode": write(&episode, 3) };
            let (key, noted) = Noted::read(&document).unwrap();
            assert_eq!((key.as_str(), noted.version), ("a/b", 3));
            assert_eq!(noted.episode, Some(episode));
        }
    }
}
