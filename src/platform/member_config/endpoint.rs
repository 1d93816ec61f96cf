//! One endpoint as configured, made one that makes sense.

use std::time::Duration;

use bson::{RawBsonRef, RawDocument};
use secrecy::SecretString;
use standardwebhooks::Webhook;
use url::Url;

use super::{EndpointPolicy, address, auth, field, headers};
use crate::model::{EndpointKey, EventType};
use crate::platform::Endpoint;

const DEFAULT_TIMEOUT_MS: f64 = 5000.0;
const MIN_TIMEOUT_MS: f64 = 1000.0;
const MAX_TIMEOUT_MS: f64 = 30_000.0;

/// The endpoint of that key, or why it is refused. What was changed to make it sensible is added to `changes`.
pub(super) fn read(
    source: &RawDocument,
    key: EndpointKey,
    policy: &EndpointPolicy,
    changes: &mut Vec<String>,
) -> Result<Endpoint, String> {
    Ok(Endpoint {
        key,
        // A label is no reason to refuse an endpoint.
        name: field::text(source, "name")
            .ok()
            .flatten()
            .unwrap_or_default()
            .to_owned(),
        url: url(source, policy)?,
        enabled: enabled(source)?,
        event_types: event_types(source)?,
        timeout: timeout(source, changes)?,
        headers: headers::read(source, changes)?,
        auth: auth::read(source, policy)?,
        signing_secrets: signing_secrets(source)?,
    })
}

fn url(source: &RawDocument, policy: &EndpointPolicy) -> Result<Url, String> {
    let text = field::text(source, "url")?.ok_or("it has no `url`")?;
    address::read("url", text, policy)
}

/// Null is not the default: the platform's own filter takes it for "off".
fn enabled(source: &RawDocument) -> Result<bool, String> {
    match field::get(source, "enabled")? {
        None | Some(RawBsonRef::Undefined) => Ok(true),
        Some(RawBsonRef::Boolean(enabled)) => Ok(enabled),
        Some(other) => Err(field::wrong_type("enabled", other, "a boolean")),
    }
}

/// The known types among `eventTypes`, each once.
fn event_types(source: &RawDocument) -> Result<Vec<EventType>, String> {
    let Some(value) = field::present(source, "eventTypes")? else {
        return Ok(Vec::new());
    };
    let names = value
        .as_array()
        .ok_or_else(|| field::wrong_type("eventTypes", value, "an array of strings"))?;
    let mut types = Vec::new();
    for name in names {
        let name = name.map_err(|_| "`eventTypes` is not valid BSON")?;
        match name.as_str().and_then(EventType::parse) {
            Some(known) if !types.contains(&known) => types.push(known),
            _ => {}
        }
    }
    Ok(types)
}

fn timeout(source: &RawDocument, changes: &mut Vec<String>) -> Result<Duration, String> {
    let configured = match field::present(source, "timeout")? {
        None => DEFAULT_TIMEOUT_MS,
        Some(value) => field::number(value).filter(|ms| !ms.is_nan()).unwrap_or_else(|| {
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

/// All or none: with one secret left out, a receiver that knows just that one would refuse every event.
fn signing_secrets(source: &RawDocument) -> Result<Vec<SecretString>, String> {
    let Some(value) = field::present(source, "signingSecrets")? else {
        return Ok(Vec::new());
    };
    let secrets = value
        .as_array()
        .ok_or_else(|| field::wrong_type("signingSecrets", value, "an array of strings"))?;
    let checked = secrets.into_iter().enumerate().map(|(position, secret)| {
        let secret = secret
            .ok()
            .and_then(|secret| secret.as_str())
            .filter(|secret| is_signing_secret(secret));
        secret
            .map(SecretString::from)
            .ok_or_else(|| format!("`signingSecrets.{position}` is not `whsec_` and base64"))
    });
    checked.collect()
}

fn is_signing_secret(secret: &str) -> bool {
    // Webhook::new takes secrets without the prefix, and an empty key, with which everybody can sign.
    secret.strip_prefix("whsec_").is_some_and(|key| !key.is_empty()) && Webhook::new(secret).is_ok()
}
