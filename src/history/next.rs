//! What happens next to a delivery: a pure function of what its document, its endpoint and the configuration say.

use std::collections::{BTreeSet, HashMap};

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::documents::Place;
use crate::cluster::is_any_alive;
use crate::config::{Config, Delivery};
use crate::model::{EndpointKey, printable};
use crate::operations::Holds;
use crate::outbox::{later, retry_deadline, state_id};
use crate::platform::{Directory, Found};
use crate::sender::RetryPolicy;
use crate::status::rfc3339_if_known;
use crate::store::{Result, Store};

/// Of a reason from elsewhere, in bytes.
const REASON: usize = 1024;

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Next {
    /// A word for it that stays the same.
    pub code: &'static str,
    /// The same for people.
    pub text: String,
    /// Not before then.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub at: Option<DateTime>,
    /// Not after then.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub until: Option<DateTime>,
}

/// How an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndpointState {
    /// Sent to, but not before `paused_until`.
    Served {
        paused_until: Option<DateTime>,
        since: Option<DateTime>,
    },
    /// What waits for it is cancelled.
    Off(String),
    /// What waits for it goes on waiting, since then.
    OutOfService { reason: String, since: Option<DateTime> },
    /// The same, because somebody said so, until then.
    Held { how: String, until: Option<DateTime> },
}

/// How each of these endpoints stands.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub(super) async fn states_of(
    store: &Store,
    directory: &Directory,
    keys: &BTreeSet<EndpointKey>,
    now: DateTime,
) -> Result<HashMap<EndpointKey, EndpointState>> {
    let ids: Vec<_> = keys.iter().map(state_id).collect();
    let noted: Vec<Document> = match ids.is_empty() {
        true => Vec::new(),
        false => {
            store
                .state()
                .find(doc! { "_id": { "$in": ids } })
                .await?
                .try_collect()
                .await?
        }
    };
    let noted: HashMap<_, _> = noted
        .iter()
        .filter_map(|one| Some((one.get_str("_id").ok()?, one)))
        .collect();
    let holds = Holds::default();
    holds.load(store).await?;
    let state = |key: &EndpointKey| {
        let state = state_of(directory, key, noted.get(&*state_id(key)).copied());
        // Off and out of service take precedence.
        let hold = holds
            .of(key, now)
            .filter(|_| matches!(state, EndpointState::Served { .. }));
        hold.map_or(state, |hold| EndpointState::Held {
            how: printable(hold.describe().as_bytes(), REASON),
            until: hold.until,
        })
    };
    Ok(keys.iter().map(|key| (key.clone(), state(key))).collect())
}

/// By its configuration first; `noted` is its document in `webhook_state`.
pub(super) fn state_of(directory: &Directory, key: &EndpointKey, noted: Option<&Document>) -> EndpointState {
    // Of one that nobody configured the directory would say that its document may be on its way.
    if !key.is_email() && !directory.knows(key) {
        return EndpointState::Off(match directory.knows_organization(key.organization()) {
            true => "its endpoint was deleted".into(),
            false => "its organization has no configuration document, which counts as deleted after 10 minutes".into(),
        });
    }
    let instant = |field| noted.and_then(|noted| noted.get_datetime(field).ok().copied());
    match directory.find(key) {
        Found::Served(_) | Found::Email { enabled: true } => EndpointState::Served {
            paused_until: instant("slowedUntil"),
            since: instant("servedSince"),
        },
        Found::Email { enabled: false } => EndpointState::Off("e-mails are switched off".into()),
        Found::Off { reason } => EndpointState::Off(reason.to_owned()),
        Found::OutOfService { reason } => EndpointState::OutOfService {
            reason: printable(reason.as_bytes(), REASON),
            since: instant("waitingSince"),
        },
    }
}

/// Since when an endpoint is as it is, or why, beside what its configuration and its holds say.
pub(super) fn standing(state: &EndpointState, now: DateTime) -> Option<String> {
    match state {
        EndpointState::Off(reason) => Some(reason.clone()),
        EndpointState::OutOfService { since, .. } => since.map(|since| format!("since {}", instant(since))),
        EndpointState::Served { paused_until, .. } => {
            let until = paused_until.filter(|until| *until > now)?;
            Some(format!("it asked for a pause until {}", instant(until)))
        }
        EndpointState::Held { .. } => None,
    }
}

/// Whether an instance is alive.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub(super) async fn instance_runs(store: &Store, now: DateTime) -> Result<bool> {
    is_any_alive(store, now).await
}

/// What happens next to the delivery that stands there.
pub(super) fn next(
    place: &Place,
    states: &HashMap<EndpointKey, EndpointState>,
    config: &Config,
    now: DateTime,
) -> Next {
    let unknown = EndpointState::Off("nothing is known of its endpoint".into());
    let endpoint = states.get(&place.key()).unwrap_or(&unknown);
    match place.state {
        "pending" => pending(place, endpoint, &config.delivery, now),
        "dead" => dead(place, endpoint, &config.delivery, now),
        "cancelled" => kept(place, &config.delivery),
        "delivered" => Next::new("nothing", "nothing more"),
        "rejected" => Next::new(
            "nothing",
            "nothing: it is set aside until somebody mends or removes the document",
        ),
        "moved" => Next::new(
            "nothing",
            "nothing: it left this document for one of its own, which is not kept any longer",
        ),
        _ => Next::new("unknown", "nobody knows: its state can't be read"),
    }
}

impl Next {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            at: None,
            until: None,
        }
    }
}

fn pending(place: &Place, endpoint: &EndpointState, delivery: &Delivery, now: DateTime) -> Next {
    let (paused_until, since) = match endpoint {
        EndpointState::Off(reason) => return Next::new("cancel", format!("is about to be cancelled: {reason}")),
        EndpointState::OutOfService { reason, since } => {
            let since = since
                .map(|since| format!(" since {}", instant(since)))
                .unwrap_or_default();
            let text =
                format!("waits because its endpoint is out of service{since}: {reason}; goes out by itself after that");
            return Next::new("wait", text);
        }
        EndpointState::Held { how, until } => {
            let text = format!("waits because its endpoint is held {how}; goes out by itself after that");
            return Next {
                at: *until,
                ..Next::new("wait", text)
            };
        }
        EndpointState::Served { paused_until, since } => (*paused_until, *since),
    };
    let number = place.attempts + 1;
    let what = match place.is_redriven {
        true => format!("attempt {number}, the only one of a dead letter that goes out by itself,"),
        false => format!("attempt {number}"),
    };
    let until = place
        .first_attempt_at
        .filter(|_| !place.is_redriven)
        .map(|first| retry_deadline(first, since, &retry(delivery)));
    let pause = paused_until.filter(|until| *until > now);
    let at = place.due.max(pause);
    let text = match at {
        Some(at) if pause == Some(at) => format!(
            "{what} at {} at the earliest: its endpoint asked for a pause",
            instant(at)
        ),
        Some(at) if at > now => format!("{what} at {}", instant(at)),
        _ => format!("{what} as soon as it is its turn"),
    };
    let end = until
        .map(|until| format!(", retried until {}", instant(until)))
        .unwrap_or_default();
    Next {
        at,
        until,
        ..Next::new("attempt", text + &end)
    }
}

fn dead(place: &Place, endpoint: &EndpointState, delivery: &Delivery, now: DateTime) -> Next {
    let until = place.dead_since.map(|since| later(since, delivery.redrive_for));
    let goes_out = place.is_redrivable && until.is_some_and(|until| until > now);
    let Some(until) = until.filter(|_| goes_out) else {
        return kept(place, delivery);
    };
    let when = match endpoint {
        EndpointState::Off(_) => return kept(place, delivery),
        EndpointState::OutOfService { reason, .. } => {
            format!("once its endpoint is no longer out of service ({reason}) and answers")
        }
        EndpointState::Held { how, .. } => format!("once its endpoint is no longer held ({how}) and answers"),
        EndpointState::Served { .. } => "when its endpoint answers again".to_owned(),
    };
    Next {
        until: Some(until),
        ..Next::new(
            "redrive",
            format!("goes out by itself {when}, until {}", instant(until)),
        )
    }
}

/// It has ended: somebody may send it again while it is kept.
fn kept(place: &Place, delivery: &Delivery) -> Next {
    let until = place.finished_at.map(|at| later(at, delivery.retention));
    let end = until
        .map(|until| format!(" until {}", instant(until)))
        .unwrap_or_default();
    if let Some(why) = place.no_payload {
        return Next {
            until,
            ..Next::new(
                "keep",
                format!("nothing, and no replay: {why}; its record is kept{end}"),
            )
        };
    }
    let text = format!(
        "nothing by itself; kept{end}: certhookd replay --id {}/{}",
        place.event, place.endpoint
    );
    Next {
        until,
        ..Next::new("keep", text + &format!(" --state {}", place.state))
    }
}

fn retry(delivery: &Delivery) -> RetryPolicy {
    RetryPolicy {
        max_attempts: delivery.max_attempts,
        period: delivery.retry_window,
    }
}

/// As people read it.
pub(super) fn instant(at: DateTime) -> String {
    at.try_to_rfc3339_string()
        .unwrap_or_else(|_| format!("{} ms", at.timestamp_millis()))
}
