//! Values that are fine each, but not together.

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
    /// What was expected and what was found, if they contradict each other.
    find: fn(&Config) -> Option<(String, String)>,
}

const CONTRADICTIONS: [Contradiction; 6] = [
    Contradiction {
        keys: ["mongodb.member_configs", "mongodb.badge_users"],
        find: |Config { mongodb, .. }| {
            let same = mongodb.member_configs == mongodb.badge_users;
            same.then(|| {
                (
                    "another collection than mongodb.badge_users".to_owned(),
                    mongodb.member_configs.clone(),
                )
            })
        },
    },
    Contradiction {
        keys: ["delivery.concurrency", "delivery.max_in_flight"],
        find: |Config { delivery, .. }| at_most(delivery.concurrency, "delivery.max_in_flight", delivery.max_in_flight),
    },
    Contradiction {
        keys: ["delivery.max_in_flight", "queue.capacity"],
        find: |config| at_most(config.delivery.max_in_flight, "queue.capacity", config.queue.capacity),
    },
    Contradiction {
        keys: ["delivery.retry_window", "delivery.max_attempts"],
        find: |Config { delivery, .. }| {
            let pauses = delivery.max_attempts.saturating_sub(1);
            let least = SHORTEST_PAUSE * pauses;
            (delivery.retry_window < least).then(|| {
                let least = format_duration(least);
                let expected = format!("at least {least} (the {pauses} pauses of delivery.max_attempts, 500ms each)");
                (expected, format_duration(delivery.retry_window).to_string())
            })
        },
    },
    Contradiction {
        keys: ["delivery.retention", "delivery.retry_window"],
        find: |Config { delivery, .. }| {
            (delivery.retention < delivery.retry_window).then(|| {
                let least = format_duration(delivery.retry_window);
                let expected = format!("at least delivery.retry_window ({least})");
                (expected, format_duration(delivery.retention).to_string())
            })
        },
    },
    Contradiction {
        keys: ["email.from", "email.smtp_url"],
        find: |Config { email, .. }| {
            let nobody = email.smtp_url.is_some() && email.from.is_none();
            nobody.then(|| ("an address, since email.smtp_url is set".to_owned(), "none".to_owned()))
        },
    },
];

fn at_most(value: usize, limit_key: &str, limit: usize) -> Option<(String, String)> {
    (value > limit).then(|| (format!("at most {limit_key} ({limit})"), value.to_string()))
}

/// Adds a fault for each contradiction whose two values are valid: what stands in for an invalid one proves nothing.
pub(super) fn find(config: &Config, settings: &mut Settings) {
    for Contradiction { keys, find } in CONTRADICTIONS {
        if settings.faults.iter().any(|fault| keys.contains(&fault.key())) {
            continue;
        }
        if let Some((expected, found)) = find(config) {
            let origin = settings.origin(keys[0]).to_owned();
            settings.faults.push(Fault::new(
                keys[0],
                format!("expected {expected}, found {found}"),
                Some(origin),
            ));
        }
    }
}
