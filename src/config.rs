//! The configuration: defaults < file < environment, every value checked, every fault named at once.
//!
//! The way of a value: `file` and `environment` put what the operator gave into `settings`, `secrets` fetches those that are
//! kept elsewhere, `schema` (one row per key) turns it into types by the `rules`, and `contradictions`
//! looks at the values that must agree. Operators rely on the names and defaults of the keys: `config.toml` lists them.

use std::path::Path;

mod schema;

mod connection_string;
mod contradictions;
mod environment;
mod faults;
mod file;
mod mailbox;
mod nearest;
mod proxy;
mod raw;
mod reload;
mod rules;
mod secrets;
mod settings;
mod smtp;
mod template;

pub use faults::{Fault, Faults};
pub(crate) use mailbox::ascii_domain;
pub use proxy::{NoProxy, ProxyServer};
pub use reload::restart_needed;
pub use schema::{
    Completions, Delivery, Email, Mongodb, Notices, Operations, Queue, Scan, Secrets, Service, Telemetry,
};
pub use secrets::Credentials;
pub use smtp::{Encryption, SmtpServer};
pub use template::Template;

use settings::Settings;

/// A configuration that makes sense. `Debug` does not show what may hold a password.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the certificates are.
    pub mongodb: Mongodb,
    /// When certificates that expired are looked for.
    pub scan: Scan,
    /// Awarded certificates, from the change stream.
    pub completions: Completions,
    /// Deliveries in memory.
    pub queue: Queue,
    /// How events reach the endpoints.
    pub delivery: Delivery,
    /// What encrypted values are decrypted with.
    pub secrets: Secrets,
    /// Reminders to users.
    pub email: Email,
    /// The daemon itself.
    pub service: Service,
    /// What the platform is told about endpoints.
    pub notices: Notices,
    /// `[operations]`
    pub operations: Operations,
    /// Traces.
    pub telemetry: Telemetry,
    /// Where the connection string comes from, for people.
    pub connection_string_from: String,
    /// What is ignored, although it was probably meant: a line each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Merges the defaults, `file` (none: no file), the `CERTHOOKD_SECTION__KEY` variables among `env` and the
    /// credentials `mongodb-uri`, `smtp-url`, `secret-keys`, `notices-secret` and `proxy-url`, and validates it.
    ///
    /// # Errors
    /// Everything that is wrong, not the first thing only. Contradictions between values are looked for where both
    /// values are known, so not if the file can't be parsed.
    pub fn load(file: Option<&Path>, env: &[(String, String)], credentials: &Credentials) -> Result<Self, Faults> {
        let mut settings = Settings::default();
        let file_known = file.is_none_or(|path| file::merge(path, &mut settings));
        environment::merge(env, &mut settings);
        // What a file says that can't be parsed is not known: it may hold the connection string.
        if file_known || settings.given(secrets::URI_KEY).is_some() {
            secrets::resolve(credentials, &mut settings);
            connection_string::resolve(&mut settings);
        }
        let config = Self::read(&mut settings);
        if let Some(config) = config.as_ref().filter(|_| file_known) {
            contradictions::find(config, &mut settings);
        }
        config
            .filter(|_| settings.faults.is_empty())
            .ok_or_else(|| Faults::new(settings.faults))
    }

    fn read(settings: &mut Settings) -> Option<Self> {
        let mongodb = Mongodb::read(settings);
        let scan = Scan::read(settings);
        let completions = Completions::read(settings);
        let queue = Queue::read(settings);
        let delivery = Delivery::read(settings);
        let secrets = Secrets::read(settings);
        let email = Email::read(settings);
        let service = Service::read(settings);
        let operations = Operations::read(settings);
        let notices = Notices::read(settings);
        let telemetry = Telemetry::read(settings);
        Some(Self {
            mongodb: mongodb?,
            scan: scan?,
            completions: completions?,
            queue: queue?,
            delivery: delivery?,
            secrets: secrets?,
            email: email?,
            service: service?,
            operations: operations?,
            notices: notices?,
            telemetry: telemetry?,
            connection_string_from: settings.origin(secrets::URI_KEY).to_owned(),
            warnings: std::mem::take(&mut settings.warnings),
        })
    }
}

#[cfg(test)]
mod tests;
