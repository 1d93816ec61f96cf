//! What happens next to a delivery: a pure function of what its document, its endpoint and the configuration say.

use std::collections::HashMap;

use bson::DateTime;
use serde::Serialize;

use super::documents::StoredDelivery;
use super::endpoint_states::{EndpointState, waits_for_proxy};
use crate::config::{Config, Delivery};
use crate::model::{EndpointKey, later, uncounted};
use crate::outbox::retry_deadline;
use crate::sender::RetryPolicy;
use crate::status::rfc3339_if_known;

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

/// What happens next to that delivery.
pub(super) fn next(
    stored: &StoredDelivery,
    states: &HashMap<EndpointKey, EndpointState>,
    config: &Config,
    now: DateTime,
) -> Next {
    let unknown = EndpointState::Off("nothing is known of its endpoint".into());
    let endpoint = states.get(&stored.key()).unwrap_or(&unknown);
    match stored.state {
        "pending" => pending(stored, endpoint, &config.delivery, now),
        "dead" => dead(stored, endpoint, &config.delivery, now),
        "cancelled" => kept(stored, &config.delivery),
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

    fn wait(text: String, at: Option<DateTime>) -> Self {
        Self {
            at,
            ..Self::new("wait", text)
        }
    }
}

fn pending(stored: &StoredDelivery, endpoint: &EndpointState, delivery: &Delivery, now: DateTime) -> Next {
    let (paused_until, since, proxy) = match endpoint {
        EndpointState::Off(reason) => return Next::new("cancel", format!("is about to be cancelled: {reason}")),
        EndpointState::OutOfService { reason, since, .. } => {
            let since = since.map_or_else(String::new, |since| format!(" since {}", instant(since)));
            let text = format!("waits because its endpoint is out of service{since}: {reason}");
            return Next::wait(text + "; goes out by itself after that", None);
        }
        EndpointState::Held { how, until, .. } => {
            let text = format!("waits because its endpoint is held {how}; goes out by itself after that");
            return Next::wait(text, *until);
        }
        EndpointState::Suspended { since, why, .. } => {
            let text = format!(
                "waits because its endpoint is suspended since {}: {why}; it is probed once an hour, and this goes out by itself after a success, a change of its settings or a release",
                instant(*since)
            );
            return Next::wait(text, None);
        }
        EndpointState::Served { proxy: Some(fault), .. } if fault.is_for_all => {
            let then = "; goes out by itself once it works, and its retry period begins anew then";
            return Next::wait(waits_for_proxy(fault) + then, None);
        }
        EndpointState::Served {
            paused_until,
            since,
            proxy,
            ..
        } => (*paused_until, *since, proxy),
    };
    let mut next = attempted(stored, paused_until.filter(|until| *until > now), since, delivery, now);
    let besides = proxy.as_ref().map(|fault| format!("; {}", waits_for_proxy(fault)));
    next.text.extend(besides);
    next
}

/// The next attempt of a delivery whose endpoint is served: after its pause, and retried until its retry period ends, which began anew
/// where the endpoint has been served `since` then.
fn attempted(
    stored: &StoredDelivery,
    pause: Option<DateTime>,
    since: Option<DateTime>,
    delivery: &Delivery,
    now: DateTime,
) -> Next {
    let number = stored.attempts + 1;
    let what = match stored.is_redriven {
        true => format!("attempt {number}, the only one of a dead letter that goes out by itself,"),
        false => format!("attempt {number}"),
    };
    let until = stored
        .first_attempt_at
        .filter(|_| !stored.is_redriven)
        .map(|first| retry_deadline(first, since, &retry(delivery)));
    let at = stored.due.max(pause);
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

fn dead(stored: &StoredDelivery, endpoint: &EndpointState, delivery: &Delivery, now: DateTime) -> Next {
    // Time in which its endpoint was held or suspended does not count.
    let periods = match endpoint {
        EndpointState::Held { held, .. }
        | EndpointState::Served { held, .. }
        | EndpointState::Suspended { held, .. }
        | EndpointState::OutOfService { held, .. } => held.clone(),
        EndpointState::Off(_) => Vec::new(),
    };
    let until = |since| later(later(since, delivery.redrive_for), uncounted(since, now, &periods));
    let until = stored.dead_since.map(until);
    let goes_out = stored.is_redrivable && until.is_some_and(|until| until > now);
    let Some(until) = until.filter(|_| goes_out) else {
        return kept(stored, delivery);
    };
    let when = match endpoint {
        EndpointState::Off(_) => return kept(stored, delivery),
        EndpointState::OutOfService { reason, .. } => {
            format!("once its endpoint is no longer out of service ({reason}) and answers")
        }
        EndpointState::Held { how, .. } => format!("once its endpoint is no longer held ({how}) and answers"),
        EndpointState::Served { .. } | EndpointState::Suspended { .. } => "when its endpoint answers again".to_owned(),
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
fn kept(stored: &StoredDelivery, delivery: &Delivery) -> Next {
    let until = stored.finished_at.map(|at| later(at, delivery.retention));
    let end = until
        .map(|until| format!(" until {}", instant(until)))
        .unwrap_or_default();
    if let Some(why) = stored.no_payload {
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
        stored.event, stored.endpoint
    );
    Next {
        until,
        ..Next::new("keep", text + &format!(" --state {}", stored.state))
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
