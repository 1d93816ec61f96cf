//! Authentication of a request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use url::Url;

use super::request::Unsendable;
use crate::platform::{Auth, Endpoint, is_reserved};

/// Adds what authenticates to `headers`, `token` where the endpoint wants OAuth2. A request that can't be authenticated as
/// configured is not sent at all.
///
/// # Errors
/// [`Unsendable`] if a header can't hold a secret, the key's header is one that the daemon itself sets, or there is no
/// token.
pub(super) fn authenticate(
    headers: &mut HeaderMap,
    endpoint: &Endpoint,
    token: Option<&HeaderValue>,
) -> Result<(), Unsendable> {
    match &endpoint.auth {
        Auth::None => from_url(headers, &endpoint.url),
        Auth::Bearer { token } => insert(headers, AUTHORIZATION, format!("Bearer {}", token.expose_secret())),
        Auth::Basic { username, password } => insert(
            headers,
            AUTHORIZATION,
            basic(username.as_bytes(), password.expose_secret().as_bytes()),
        ),
        Auth::ApiKey { header, .. } if is_reserved(header) => Err(Unsendable::ReservedHeader(header.clone())),
        Auth::ApiKey { header, key } => insert(headers, header.clone(), key.expose_secret().to_owned()),
        Auth::OAuth2(_) => {
            headers.insert(AUTHORIZATION, token.ok_or(Unsendable::NoToken)?.clone());
            Ok(())
        }
    }
}

/// `https://user:password@host/` asks for Basic as every HTTP client does it, unless the endpoint's headers say otherwise.
fn from_url(headers: &mut HeaderMap, url: &Url) -> Result<(), Unsendable> {
    if (url.username().is_empty() && url.password().is_none()) || headers.contains_key(AUTHORIZATION) {
        return Ok(());
    }
    let decode = |text| percent_decode_str(text).collect::<Vec<u8>>();
    insert(
        headers,
        AUTHORIZATION,
        basic(&decode(url.username()), &decode(url.password().unwrap_or_default())),
    )
}

fn basic(username: &[u8], password: &[u8]) -> String {
    format!("Basic {}", STANDARD.encode([username, b":", password].concat()))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) -> Result<(), Unsendable> {
    let mut value = HeaderValue::try_from(value).map_err(|_| Unsendable::Credentials)?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}
