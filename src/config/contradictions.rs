//! Values that are valid each, but not together.

use std::time::Duration;

use humantime::format_duration;

use super::Config;
use super::faults::Fault;
use super::settings::Settings;

/// The pause before the first retry, and the shortest between two attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);

struct Contradiction {
    /// The key that is at fault, and the one that it must agree with.
    keys: [&'static str; 2],
    /// `None` if the two agree.
    check: fn(&Config) -> Option<Mismatch>,
}

struct Mismatch {
    expected: String,
    found: String,
}

const CONTRADICTIONS: [Contradiction; 11] = [
    Contradiction {
        keys: ["mongodb.member_configs", "mongodb.badge_users"],
        check: |Config { mongodb, .. }| {
            let same = mongodb.member_configs == mongodb.badge_users;
            same.then(|| Mismatch {
                expected: "another collection than mongodb.badge_users".to_owned(),
                found: mongodb.member_configs.clone(),
            })
        },
    },
    Contradiction {
        keys: ["delivery.concurrency", "delivery.max_in_flight"],
        check: |Config { delivery, .. }| {
            at_most(delivery.concurrency, "delivery.max_in_flight", delivery.max_in_flight)
        },
    },
    Contradiction {
        keys: ["delivery.max_in_flight", "queue.capacity"],
        check: |config| at_most(config.delivery.max_in_flight, "queue.capacity", config.queue.capacity),
    },
    Contradiction {
        keys: ["delivery.retry_window", "delivery.max_attempts"],
        check: |Config { delivery, .. }| {
            let pauses = delivery.max_attempts.saturating_sub(1);
            let least = SHORTEST_PAUSE * pauses;
            (delivery.retry_window < least).then(|| {
                let least = format_duration(least);
                Mismatch {
                    expected: format!("at least {least} (the {pauses} pauses of delivery.max_attempts, 500ms each)"),
                    found: format_duration(delivery.retry_window).to_string(),
                }
            })
        },
    },
    Contradiction {
        keys: ["delivery.retention", "delivery.retry_window"],
        check: |Config { delivery, .. }| {
            (delivery.retention < delivery.retry_window).then(|| {
                let least = format_duration(delivery.retry_window);
                Mismatch {
                    expected: format!("at least delivery.retry_window ({least})"),
                    found: format_duration(delivery.retention).to_string(),
                }
            })
        },
    },
    Contradiction {
        keys: ["delivery.redrive_for", "delivery.retention"],
        check: |Config { delivery, .. }| {
            (delivery.redrive_for > delivery.retention).then(|| {
                let most = format_duration(delivery.retention);
                Mismatch {
                    expected: format!("at most delivery.retention ({most})"),
                    found: format_duration(delivery.redrive_for).to_string(),
                }
            })
        },
    },
    Contradiction {
        keys: ["delivery.redrive_for", "delivery.suspend_after"],
        check: |Config { delivery, .. }| {
            let redrives = !delivery.redrive_for.is_zero();
            (redrives && delivery.redrive_for < delivery.suspend_after).then(|| Mismatch {
                expected: format!(
                    "\"0s\" or at least delivery.suspend_after ({})",
                    in_days(delivery.suspend_after)
                ),
                found: in_days(delivery.redrive_for),
            })
        },
    },
    Contradiction {
        keys: ["notices.url", "delivery.allow_http"],
        check: |Config { notices, delivery, .. }| {
            let is_plain = notices.url.as_ref().is_some_and(|url| url.scheme() == "http");
            (is_plain && !delivery.allow_http).then(|| Mismatch {
                expected: "https://, since delivery.allow_http is false".to_owned(),
                found: "http://".to_owned(),
            })
        },
    },
    Contradiction {
        keys: ["notices.secret", "notices.url"],
        check: |Config { notices, .. }| {
            (notices.url.is_some() && notices.secret.is_none()).then(|| Mismatch {
                expected: "a secret, since notices.url is set".to_owned(),
                found: "none".to_owned(),
            })
        },
    },
    Contradiction {
        keys: ["delivery.payload_retention", "delivery.retention"],
        check: |Config { delivery, .. }| {
            let longer = delivery.payload_retention.filter(|kept| *kept > delivery.retention)?;
            Some(Mismatch {
                expected: format!("at most delivery.retention ({})", in_days(delivery.retention)),
                found: in_days(longer),
            })
        },
    },
    Contradiction {
        keys: ["email.from", "email.smtp_url"],
        check: |Config { email, .. }| {
            let nobody = email.smtp_url.is_some() && email.from.is_none();
            nobody.then(|| Mismatch {
                expected: "an address, since email.smtp_url is set".to_owned(),
                found: "none".to_owned(),
            })
        },
    },
];

/// Humantime would tell 31 days as a month and 13 hours.
fn in_days(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ => format_duration(duration).to_string(),
    }
}

fn at_most(value: usize, limit_key: &str, limit: usize) -> Option<Mismatch> {
    (value > limit).then(|| Mismatch {
        expected: format!("at most {limit_key} ({limit})"),
        found: value.to_string(),
    })
}

/// Adds a fault for each contradiction whose two values are valid: the default that replaces an invalid one proves nothing.
pub(super) fn find(config: &Config, settings: &mut Settings) {
    for Contradiction { keys, check } in CONTRADICTIONS {
        if settings.faults.iter().any(|fault| keys.contains(&fault.key())) {
            continue;
        }
        if let Some(Mismatch { expected, found }) = check(config) {
            let origin = settings.origin(keys[0]).to_owned();
            settings.faults.push(Fault::new(
                keys[0],
                format!("expected {expected}, found {found}"),
                Some(origin),
            ));
        }
    }
}
