//! What a reload can't apply.

use secrecy::ExposeSecret;

use super::Config;

/// Pairs of a key and whether its value differs; each field is named as its key.
macro_rules! differences {
    ($old:ident, $new:ident: $($section:ident.$key:ident),* $(,)?) => {
        [$((concat!(stringify!($section), ".", stringify!($key)), $old.$section.$key != $new.$section.$key)),*]
    };
}

/// The changed keys that take effect only after a restart: they shape the connection, the tasks or the listener.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let uri = old.mongodb.uri.expose_secret() != new.mongodb.uri.expose_secret();
    let others = differences!(old, new:
        mongodb.database,
        mongodb.badge_users,
        mongodb.member_configs,
        completions.enabled,
        delivery.retention,
        service.metrics_listen,
        service.allowed_hosts,
        service.page,
        service.metrics,
        service.start_held,
        operations.retention,
        telemetry.otlp_endpoint,
    );
    let differences = [("mongodb.uri", uri)].into_iter().chain(others);
    differences
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
}
