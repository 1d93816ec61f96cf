//! Signatures of Standard Webhooks (<https://www.standardwebhooks.com>): `v1,` and base64 of HMAC-SHA256.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;

use super::request::Unsendable;
use crate::model::Message;

/// The value of `webhook-signature`: one signature for each secret, in their order, separated by spaces; `None` without
/// secrets. `timestamp` is in seconds.
///
/// # Errors
/// [`Unsendable`] if a secret is empty or not base64, or the body is not text: what can't be signed is not sent.
pub fn sign(secrets: &[SecretString], message: &Message, timestamp: i64) -> Result<Option<HeaderValue>, Unsendable> {
    if secrets.is_empty() {
        return Ok(None);
    }
    let mut signatures = Vec::with_capacity(secrets.len());
    for (index, secret) in secrets.iter().enumerate() {
        let signature = sign_once(secret.expose_secret(), message, timestamp);
        signatures.push(signature.ok_or(Unsendable::SigningSecret { number: index + 1 })?);
    }
    Ok(Some(HeaderValue::try_from(signatures.join(" "))?))
}

fn sign_once(secret: &str, message: &Message, timestamp: i64) -> Option<String> {
    // An empty key would sign, and so would anyone.
    if secret.trim_start_matches("whsec_").is_empty() {
        return None;
    }
    Webhook::new(secret)
        .ok()?
        .sign(message.event_id.as_str(), timestamp, &message.body)
        .ok()
}
