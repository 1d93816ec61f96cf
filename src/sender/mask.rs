//! The secrets of an endpoint, and texts without them: a receiver may say back what it was sent.

mod written;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::platform::{Auth, Endpoint};
use written::{LONGEST_ESCAPE, escaped, is_cut_off};

/// What stands in for a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// A shorter value, in bytes, is not looked for: it would be found everywhere.
const MIN_SECRET: usize = 4;

/// A part of a URL's path that is as long as this, in bytes, may be a token.
const MIN_TOKEN: usize = 16;

/// What must not be shown of an endpoint: as it is and in base64, the longest first, because one may be part of another.
pub(super) struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// Those of an endpoint, with the `Authorization` of the OAuth2 token that was used.
    pub(super) fn of(endpoint: &Endpoint, token: Option<&HeaderValue>) -> Self {
        let mut plain = of_auth(&endpoint.auth);
        plain.extend(of_url(&endpoint.url));
        plain.extend(endpoint.signing_secrets.iter().flat_map(of_signing_secret));
        let own = endpoint.headers.values().filter(|value| value.is_sensitive());
        plain.extend(own.chain(token).flat_map(of_header));
        let encoded: Vec<_> = plain.iter().flat_map(|secret| in_base64(secret)).collect();
        plain.extend(encoded);
        plain.retain(|secret| secret.len() >= MIN_SECRET);
        plain.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        plain.dedup();
        Self(plain)
    }

    /// Those of nobody.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// How many bytes of a text must be known to mask its first `most`.
    pub(super) fn reach(&self, most: usize) -> usize {
        most + self.0.first().map_or(0, |longest| longest.len() * LONGEST_ESCAPE)
    }

    /// The first `most` bytes of `text` without secrets, percent-encoded ones and those that JSON or HTML escapes too. One that the end
    /// of the text cuts off is masked as well.
    pub(super) fn mask(&self, text: &[u8], most: usize) -> Vec<u8> {
        let (mut masked, mut at) = (Vec::new(), 0);
        while at < text.len().min(most) {
            let rest = &text[at..];
            match self.0.iter().find_map(|secret| spelled(rest, secret)) {
                Some(length) => {
                    masked.extend_from_slice(HIDDEN.as_bytes());
                    at += length;
                }
                None => {
                    masked.push(text[at]);
                    at += 1;
                }
            }
        }
        masked
    }
}

/// How many bytes at the beginning of `text` spell `secret`, or begin to, where the text ends.
fn spelled(text: &[u8], secret: &[u8]) -> Option<usize> {
    if text.first() != secret.first() && !matches!(text.first(), Some(b'%' | b'+' | b'\\' | b'&')) {
        return None;
    }
    if text.starts_with(secret) {
        return Some(secret.len());
    }
    let (mut length, mut known) = (0, 0);
    while known < secret.len() {
        let (rest, left) = (&text[length..], &secret[known..]);
        match escaped(rest).filter(|(bytes, _)| left.starts_with(bytes)) {
            Some((bytes, more)) => {
                known += bytes.len();
                length += more;
            }
            None if rest.first() == left.first() => {
                known += 1;
                length += 1;
            }
            // What is left may be half an escape.
            None if known >= MIN_SECRET && is_cut_off(rest) => return Some(text.len()),
            None => return None,
        }
    }
    Some(length)
}

fn of_auth(auth: &Auth) -> Vec<Vec<u8>> {
    let bytes = |secret: &SecretString| secret.expose_secret().as_bytes().to_vec();
    let pair = |name: &str, secret: &SecretString| format!("{name}:{}", secret.expose_secret()).into_bytes();
    match auth {
        Auth::None => Vec::new(),
        Auth::Bearer { token } => vec![bytes(token), format!("Bearer {}", token.expose_secret()).into_bytes()],
        Auth::Basic { username, password } => {
            let pair = pair(username, password);
            vec![bytes(password), STANDARD.encode(&pair).into_bytes(), pair]
        }
        Auth::ApiKey { key, .. } => vec![bytes(key)],
        Auth::OAuth2(credentials) => {
            let (id, secret) = (&credentials.client_id, &credentials.client_secret);
            let mut secrets = vec![bytes(secret), pair(id, secret)];
            secrets.extend(of_url(&credentials.token_url));
            secrets
        }
    }
}

/// Credentials, what a query says, and what of a path may be a token.
fn of_url(url: &Url) -> Vec<Vec<u8>> {
    let decode = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (username, password) = (url.username(), url.password().unwrap_or_default());
    let mut secrets = vec![decode(username), decode(password)];
    if !username.is_empty() || !password.is_empty() {
        // As Basic sends it.
        let pair = [decode(username), decode(password)].join(&b':');
        secrets.push(STANDARD.encode(&pair).into_bytes());
        secrets.push(pair);
    }
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned().into_bytes()));
    let parts = url.path_segments().into_iter().flatten().map(decode);
    secrets.extend(parts.filter(|part| part.len() >= MIN_TOKEN));
    secrets
}

/// As it is written, and its key.
fn of_signing_secret(secret: &SecretString) -> Vec<Vec<u8>> {
    let text = secret.expose_secret();
    let key = text.strip_prefix("whsec_").unwrap_or(text);
    let decoded = STANDARD.decode(key).unwrap_or_default();
    vec![text.into(), key.into(), decoded]
}

/// The value, and what follows its scheme.
fn of_header(value: &HeaderValue) -> Vec<Vec<u8>> {
    let value = value.as_bytes();
    let credentials = value.iter().position(|byte| *byte == b' ').map(|at| &value[at + 1..]);
    [Some(value), credentials]
        .into_iter()
        .flatten()
        .map(<[u8]>::to_vec)
        .collect()
}

/// What stands in base64 of any text that holds the secret: three bytes are four characters, so there are three ways.
fn in_base64(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut encoded = Vec::new();
    for before in 0..3 {
        let text = [&[0; 2][..before], secret].concat();
        // Without the characters in which bytes around it have a part.
        let own = (before * 8).div_ceil(6)..text.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            encoded.extend(engine.encode(&text).as_bytes().get(own.clone()).map(<[u8]>::to_vec));
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
