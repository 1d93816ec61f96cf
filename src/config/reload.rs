//! What a reload can't apply.

use secrecy::ExposeSecret;

use super::Config;

/// The changed keys that take effect only after a restart: they shape the connection, the tasks or the listener.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        (
            "mongodb.uri",
            old.mongodb.uri.expose_secret() != new.mongodb.uri.expose_secret(),
        ),
        ("mongodb.database", old.mongodb.database != new.mongodb.database),
        (
            "mongodb.badge_users",
            old.mongodb.badge_users != new.mongodb.badge_users,
        ),
        (
            "mongodb.member_configs",
            old.mongodb.member_configs != new.mongodb.member_configs,
        ),
        (
            "completions.enabled",
            old.completions.enabled != new.completions.enabled,
        ),
        ("delivery.retention", old.delivery.retention != new.delivery.retention),
        (
            "service.metrics_listen",
            old.service.metrics_listen != new.service.metrics_listen,
        ),
        (
            "service.allowed_hosts",
            old.service.allowed_hosts != new.service.allowed_hosts,
        ),
        ("service.page", old.service.page != new.service.page),
        ("service.metrics", old.service.metrics != new.service.metrics),
        ("service.start_held", old.service.start_held != new.service.start_held),
        (
            "operations.retention",
            old.operations.retention != new.operations.retention,
        ),
        (
            "telemetry.otlp_endpoint",
            old.telemetry.otlp_endpoint != new.telemetry.otlp_endpoint,
        ),
    ];
    changed
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
}
