//! One element of `webHookConfig.endpoints`, judged.

use std::sync::Arc;
use std::time::Duration;

use bson::RawBsonRef;
use url::Url;

use super::field::{Fields, number, wrong_type};
use super::{EndpointPolicy, Entry, EntryState, address, auth, event_types, headers, pace, signing_secrets, tls};
use crate::envelope::Envelopes;
use crate::model::EndpointKey;
use crate::platform::Endpoint;

/// All fields that are read of an endpoint; each counts for [`Entry::fingerprint`].
pub(super) const FIELDS: [&str; 12] = [
    "_id",
    "name",
    "url",
    "enabled",
    "eventTypes",
    "timeout",
    "headers",
    "auth",
    "signingSecrets",
    "concurrency",
    "rateLimit",
    "tls",
];

pub(super) const DEFAULT_TIMEOUT_MS: f64 = 5000.0;
pub(super) const MIN_TIMEOUT_MS: f64 = 1000.0;
pub(super) const MAX_TIMEOUT_MS: f64 = 30_000.0;

/// In characters.
pub(super) const MAX_NAME: usize = 200;

/// The endpoint of that key. What was changed to make it sensible is added to `changes`.
pub(super) fn read(source: &Fields<'_>, key: EndpointKey, policy: &EndpointPolicy, changes: &mut Vec<String>) -> Entry {
    let (enabled, name) = (enabled(source), name(source));
    let event_types = event_types::read(source, changes);
    let is_off = matches!(enabled, Ok(false));
    let wants = event_types.clone().unwrap_or_default();
    let envelopes = Envelopes {
        keys: &policy.keys,
        endpoint: &key,
    };
    let read = || -> Result<Endpoint, String> {
        Ok(Endpoint {
            url: url(source, policy)?,
            key: key.clone(),
            name: name.clone(),
            enabled: enabled?,
            event_types: event_types?,
            timeout: timeout(source, changes)?,
            headers: headers::read(source, envelopes, changes)?,
            auth: auth::read(source, policy, envelopes)?,
            signing_secrets: signing_secrets::read(source, envelopes, changes)?,
            concurrency: pace::concurrency(source, policy, changes)?,
            rate_limit: pace::rate_limit(source, changes)?,
            tls: tls::read(source, envelopes)?,
        })
    };
    let state = match (is_off, read()) {
        (true, endpoint) => EntryState::Disabled(endpoint.ok().map(Arc::new)),
        (false, Ok(endpoint)) => EntryState::Enabled(Arc::new(endpoint)),
        (false, Err(reason)) => EntryState::OutOfService(reason.into()),
    };
    Entry {
        wants: if is_off { Vec::new() } else { wants },
        fingerprint: source.fingerprint(),
        key,
        name,
        state,
        warnings: Vec::new(),
    }
}

/// A label is no reason to refuse an endpoint.
fn name(source: &Fields<'_>) -> String {
    let name = source.text("name").ok().flatten().unwrap_or_default();
    name.chars().take(MAX_NAME).collect()
}

fn url(source: &Fields<'_>, policy: &EndpointPolicy) -> Result<Url, String> {
    let text = source.text("url")?.ok_or("it has no `url`")?;
    address::read("url", text, policy)
}

/// Null is not the default: the platform's own filter takes it for "off".
fn enabled(source: &Fields<'_>) -> Result<bool, String> {
    match source.get("enabled")? {
        None | Some(RawBsonRef::Undefined) => Ok(true),
        Some(RawBsonRef::Boolean(enabled)) => Ok(enabled),
        Some(other) => Err(wrong_type("enabled", other, "a boolean")),
    }
}

fn timeout(source: &Fields<'_>, changes: &mut Vec<String>) -> Result<Duration, String> {
    let configured = match source.present("timeout")? {
        None => DEFAULT_TIMEOUT_MS,
        Some(value) => number(value).unwrap_or_else(|| {
            changes.push(format!(
                "`timeout` is not a number: the default of {DEFAULT_TIMEOUT_MS} ms is used"
            ));
            DEFAULT_TIMEOUT_MS
        }),
    };
    let clamped = configured.clamp(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS);
    if clamped != configured {
        let range = format!("{MIN_TIMEOUT_MS} to {MAX_TIMEOUT_MS} ms");
        changes.push(format!("`timeout` is outside {range}: {clamped} ms is used"));
    }
    Ok(Duration::from_millis(clamped as u64))
}
