//! What an endpoint's requests are signed with.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::RawBsonRef;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use standardwebhooks::Webhook;

use super::Envelopes;
use super::field::{Fields, wrong_type};

const MAX_COUNT: usize = 10;

/// The shortest that Standard Webhooks asks for, in bytes.
const MIN_LENGTH: usize = 24;

/// All or none: with one secret left out, a receiver that knows just that one would refuse every event. `changes` names short ones.
pub(super) fn read(
    source: &Fields<'_>,
    envelopes: Envelopes<'_>,
    changes: &mut Vec<String>,
) -> Result<Vec<SecretString>, String> {
    let Some(value) = source.present("signingSecrets")? else {
        return Ok(Vec::new());
    };
    let secrets = value
        .as_array()
        .ok_or_else(|| wrong_type("signingSecrets", value, "an array of strings"))?;
    // Refused by their number, not judged one by one: there may be 400,000.
    if secrets.into_iter().nth(MAX_COUNT).is_some() {
        return Err(format!("`signingSecrets` has more than {MAX_COUNT} entries"));
    }
    let (mut read, mut short) = (Vec::new(), Vec::new());
    for (position, secret) in secrets.into_iter().enumerate() {
        let secret = decrypt(secret.ok(), envelopes);
        let secret = secret.map_err(|why| format!("`signingSecrets.{position}` {why}"))?;
        if length(&secret) < MIN_LENGTH {
            short.push(format!("`signingSecrets.{position}`"));
        }
        read.push(secret);
    }
    if !short.is_empty() {
        let which = short.join(" and ");
        changes.push(format!(
            "{which}: shorter than {MIN_LENGTH} bytes, which is weak; used all the same"
        ));
    }
    Ok(read)
}

fn decrypt(secret: Option<RawBsonRef<'_>>, envelopes: Envelopes<'_>) -> Result<SecretString, String> {
    let no_secret = || "is not `whsec_` and base64".to_owned();
    let text = secret.and_then(|secret| secret.as_str()).ok_or_else(no_secret)?;
    let secret = envelopes.read("signingSecrets", text)?;
    // Webhook::new takes secrets without the prefix, and an empty key, with which everybody can sign.
    let key = secret.expose_secret().strip_prefix("whsec_");
    let makes_sense = key.is_some_and(|key| !key.is_empty()) && Webhook::new(secret.expose_secret()).is_ok();
    makes_sense.then_some(secret).ok_or_else(no_secret)
}

/// Of the key, in bytes.
fn length(secret: &SecretString) -> usize {
    let key = secret.expose_secret().trim_start_matches("whsec_");
    let key = SecretSlice::from(STANDARD.decode(key).unwrap_or_default());
    key.expose_secret().len()
}
