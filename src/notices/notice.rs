//! What the platform is told, as the body of a webhook: docs/notices.md.

use std::time::Duration;

use bson::{DateTime, RawBson};
use serde::Serialize;

use super::episode::{Episode, FailedAttempt, Suspension, Told};
use crate::model::{EndpointKey, EventId, Message, MessageType, NoticeType, later, spelled};
use crate::outbox::{Class, LastDeadLetter, NewDelivery};
use crate::platform::End;

/// What the configuration says of what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// `delivery.suspend_after`.
    pub suspend_after: Duration,
    /// `delivery.redrive_for`.
    pub redrive_for: Duration,
    /// How long after one probe of a suspended endpoint the next follows.
    pub probe_every: Duration,
}

/// Dead letters of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dead {
    /// How many the platform was not told of.
    pub count: i64,
    /// Those of them that don't go out again by themselves.
    pub kept: i64,
    /// The one that ended last.
    pub last: LastDeadLetter,
}

/// What happens when a client's certificate has ended.
const CLIENT_ENDS: &str = "A receiver that requires a client certificate rejects one that has expired: from then on, attempts fail and are retried. Replace clientCert and clientKey before that.";

/// What happens when a certificate of `ca` has ended.
const AUTHORITY_ENDS: &str = "If ca contains the receiver's own certificate, it is rejected once it has expired: from then on, attempts fail and are retried. A certificate authority stays trusted; add its successor to ca before the receiver's certificate is replaced.";

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

/// Fields that a notice doesn't have are left out.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    organization: &'a str,
    endpoint: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_response: Option<LastResponse<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<EndingCertificate<'a>>,
    /// What happens next, in a sentence.
    next: String,
}

#[derive(Serialize)]
struct LastResponse<'a> {
    at: Option<String>,
    status: Option<u16>,
    error: &'a str,
    event: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndingCertificate<'a> {
    field: &'static str,
    subject: &'a str,
    ends_at: String,
}

impl<'a> EndingCertificate<'a> {
    fn of(end: &'a End) -> Self {
        Self {
            field: end.field,
            subject: &end.subject,
            ends_at: text(end.at),
        }
    }
}

impl<'a> LastResponse<'a> {
    fn of(attempt: &'a FailedAttempt) -> Self {
        Self {
            at: Some(text(attempt.at)),
            status: attempt.status,
            error: &attempt.reason,
            event: &attempt.event,
        }
    }
}

/// The notice about an episode. `dead` are the endpoint's dead letters that are kept.
pub fn of_episode(
    key: &EndpointKey,
    name: &str,
    told: &Told,
    episode: &Episode,
    dead: i64,
    terms: &Terms,
    now: DateTime,
) -> NewDelivery {
    let data = Data {
        organization: key.organization(),
        endpoint: key.endpoint(),
        name,
        failures: Some(episode.failures),
        last_response: Some(LastResponse::of(&episode.last)),
        ..Data::default()
    };
    let (notice, data, instant) = match told {
        Told::Failing => (
            NoticeType::EndpointFailing,
            failing(data, episode, terms),
            episode.since,
        ),
        Told::Suspended(suspension) => (
            NoticeType::EndpointSuspended,
            suspended(data, episode, suspension, terms),
            suspension.since,
        ),
        Told::Recovered => (
            NoticeType::EndpointRecovered,
            recovered(data, episode, dead, terms),
            episode.since,
        ),
    };
    delivery(key, notice, data, instant, now)
}

fn failing<'a>(data: Data<'a>, episode: &Episode, terms: &Terms) -> Data<'a> {
    let suspended_at = text(later(episode.in_a_row_since, terms.suspend_after));
    Data {
        since: Some(text(episode.since)),
        next: format!(
            "Deliveries are retried, and nothing is lost in the meantime. If the endpoint keeps failing, it will be suspended at {suspended_at}."
        ),
        ..data
    }
}

fn suspended<'a>(data: Data<'a>, episode: &Episode, suspension: &Suspension, terms: &Terms) -> Data<'a> {
    let why = match suspension.is_gone {
        true => "The endpoint responded with 410 Gone.".to_owned(),
        false => format!("Every attempt in the last {} failed.", spelled(terms.suspend_after)),
    };
    Data {
        since: Some(text(suspension.since)),
        failing_since: Some(text(episode.since)),
        next_attempt_at: Some(text(suspension.next_probe(terms.probe_every, suspension.since))),
        next: format!(
            "{why} Its events are kept, and one of them is sent as a probe at intervals of {}. All of them are sent once a probe is accepted or the endpoint's settings are changed.",
            spelled(terms.probe_every)
        ),
        ..data
    }
}

fn recovered<'a>(data: Data<'a>, episode: &Episode, dead: i64, terms: &Terms) -> Data<'a> {
    Data {
        since: episode.well_since.map(text),
        failing_since: Some(text(episode.since)),
        delivered: Some(episode.delivered),
        dead: Some(dead),
        next: next_of_recovered(dead, terms.redrive_for),
        ..data
    }
}

/// The notice that deliveries to an endpoint became dead letters.
pub fn of_dead_letters(key: &EndpointKey, name: &str, dead: &Dead, terms: &Terms, now: DateTime) -> NewDelivery {
    let data = Data {
        organization: key.organization(),
        endpoint: key.endpoint(),
        name,
        dead: Some(dead.count),
        event_type: Some(&dead.last.event_type),
        last_response: Some(LastResponse {
            at: dead.last.at.map(text),
            status: dead.last.status,
            error: &dead.last.reason,
            event: &dead.last.event,
        }),
        next: next_of_dead_letters(dead, terms.redrive_for),
        ..Data::default()
    };
    delivery(key, NoticeType::DeliveryDead, data, now, now)
}

/// The notice that certificates of the endpoint's own end.
pub fn of_certificates(key: &EndpointKey, name: &str, ends: &[&End], now: DateTime) -> NewDelivery {
    let has = |field| ends.iter().any(|end| end.field == field);
    let consequences = [("clientCert", CLIENT_ENDS), ("ca", AUTHORITY_ENDS)];
    let next = consequences
        .iter()
        .filter(|(field, _)| has(*field))
        .map(|(_, next)| *next);
    let data = Data {
        organization: key.organization(),
        endpoint: key.endpoint(),
        name,
        certificates: ends.iter().map(|end| EndingCertificate::of(end)).collect(),
        next: next.collect::<Vec<_>>().join(" "),
        ..Data::default()
    };
    delivery(key, NoticeType::EndpointCertificateEnds, data, now, now)
}

fn next_of_recovered(dead: i64, redrive_for: Duration) -> String {
    match dead {
        0 => "Nothing was lost. Events that are still waiting are sent automatically.".into(),
        _ if redrive_for.is_zero() => {
            "Events that are still waiting are sent automatically. Dead letters are kept and can be replayed.".into()
        }
        _ => format!(
            "Events that are still waiting are sent automatically, and so are dead letters that are less than {} old. Older ones are kept and can be replayed.",
            spelled(redrive_for)
        ),
    }
}

fn next_of_dead_letters(dead: &Dead, redrive_for: Duration) -> String {
    let count = dead.count;
    let redriven = if redrive_for.is_zero() { 0 } else { count - dead.kept };
    let time = spelled(redrive_for);
    if redriven <= 0 {
        "They are kept and can be replayed.".into()
    } else if redriven == count {
        format!(
            "They are sent again automatically once the endpoint works, for {time} after they became dead letters. After that they are kept and can be replayed."
        )
    } else {
        format!(
            "They are kept and can be replayed. Those that may still succeed ({redriven} of {count}) are sent again automatically once the endpoint works, for {time} after they became dead letters."
        )
    }
}

/// The event's id is made of `instant`, so that a notice has one id, whichever instance appends it.
fn delivery(key: &EndpointKey, notice: NoticeType, data: Data<'_>, instant: DateTime, now: DateTime) -> NewDelivery {
    let body = Body {
        r#type: notice.as_str(),
        timestamp: text(now),
        data,
    };
    NewDelivery {
        message: Message {
            event_id: EventId::of_notice(notice, key, instant),
            event_type: MessageType::Notice(notice),
            // Texts and numbers: it can't fail.
            body: serde_json::to_vec(&body).unwrap_or_default().into(),
            is_replay: false,
        },
        endpoint: EndpointKey::notices(),
        // An organization may have thousands of endpoints whose certificates end: what else the platform is told goes first.
        class: match notice {
            NoticeType::EndpointCertificateEnds => Class::Background,
            _ => Class::Live,
        },
        certificate: RawBson::Null,
        occurred_at: now,
    }
}

fn text(at: DateTime) -> String {
    at.try_to_rfc3339_string().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_next_is_said_of_all_dead_letters_and_not_of_the_last() {
        const DAYS: Duration = Duration::from_secs(7 * 24 * 3600);
        const REDRIVEN: &str = "They are sent again automatically once the endpoint works, for 7 days after they became dead letters. After that they are kept and can be replayed.";
        const KEPT: &str = "They are kept and can be replayed.";
        for (count, kept, redrive_for, expected) in [
            (3, 0, DAYS, REDRIVEN),
            (3, 3, DAYS, KEPT),
            (3, 0, Duration::ZERO, KEPT),
            (
                5,
                2,
                DAYS,
                "They are kept and can be replayed. Those that may still succeed (3 of 5) are sent again automatically once the endpoint works, for 7 days after they became dead letters.",
            ),
            (2, 1, Duration::ZERO, KEPT),
            // Counted by two instances, one of which did not say it.
            (2, 3, DAYS, KEPT),
        ] {
            let dead = Dead {
                count,
                kept,
                ..Dead::default()
            };
            assert_eq!(next_of_dead_letters(&dead, redrive_for), expected, "{kept} of {count}");
        }
    }

    #[test]
    fn no_dead_letter_is_said_to_be_sent_where_none_is() {
        const HOUR: Duration = Duration::from_secs(3600);
        for (dead, redrive_for, says) in [
            (0, HOUR, "Nothing was lost."),
            (0, Duration::ZERO, "Nothing was lost."),
            (3, HOUR, "less than 1 hour old"),
            (3, Duration::ZERO, "automatically. Dead letters are kept"),
        ] {
            let next = next_of_recovered(dead, redrive_for);
            assert!(next.contains(says), "{dead}, {redrive_for:?}: {next}");
        }
    }
}
