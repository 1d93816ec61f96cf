//! How an endpoint authenticates. What is unknown or incomplete is refused: it must never mean "not at all".

use http::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::field::{Fields, wrong_type};
use super::{EndpointPolicy, address};
use crate::platform::{Auth, ClientCredentials, is_reserved};

/// The header of an `api_key` that names none.
const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

const FIELDS: [&str; 10] = [
    "authType",
    "token",
    "username",
    "password",
    "key",
    "header",
    "tokenUrl",
    "clientId",
    "clientSecret",
    "scope",
];

/// The endpoint's `auth`; none when it is absent or null.
pub(super) fn read(endpoint: &Fields<'_>, policy: &EndpointPolicy) -> Result<Auth, String> {
    let Some(value) = endpoint.present("auth")? else {
        return Ok(Auth::None);
    };
    let auth = value
        .as_document()
        .ok_or_else(|| wrong_type("auth", value, "a document"))?;
    of_type(&Fields::read(auth, &FIELDS), policy).map_err(|reason| format!("`auth`: {reason}"))
}

fn of_type(auth: &Fields<'_>, policy: &EndpointPolicy) -> Result<Auth, String> {
    match required(auth, "authType")? {
        "none" => Ok(Auth::None),
        "bearer_token" => Ok(Auth::Bearer {
            token: header_secret(auth, "token")?,
        }),
        "basic_auth" => basic(auth),
        "api_key" => Ok(Auth::ApiKey {
            header: api_key_header(auth)?,
            key: header_secret(auth, "key")?,
        }),
        "oauth2_client_credentials" => client_credentials(auth, policy).map(Auth::OAuth2),
        // Not quoted: it may be a secret that got into the wrong field.
        _ => Err("this version doesn't know its `authType`".to_owned()),
    }
}

/// The password may be empty, as where a key takes the place of the user name.
fn basic(auth: &Fields<'_>) -> Result<Auth, String> {
    let username = required(auth, "username")?;
    if username.contains(':') {
        return Err("`username` holds a colon, which ends the name (RFC 7617)".to_owned());
    }
    let password = auth.text("password")?.ok_or("`password` is missing")?;
    Ok(Auth::Basic {
        username: username.to_owned(),
        password: password.into(),
    })
}

/// Blank counts as absent here: it is an input left empty, and the default is what was meant.
fn api_key_header(auth: &Fields<'_>) -> Result<HeaderName, String> {
    let Some(name) = auth.text("header")?.filter(|name| !name.is_empty()) else {
        return Ok(API_KEY_HEADER);
    };
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "`header` is not a header name")?;
    if is_reserved(&name) {
        return Err("`header` is one that the daemon sets itself".to_owned());
    }
    Ok(name)
}

/// Blank counts as absent for `scope`: the token server decides then (RFC 6749, 3.3).
fn client_credentials(auth: &Fields<'_>, policy: &EndpointPolicy) -> Result<ClientCredentials, String> {
    Ok(ClientCredentials {
        token_url: address::read("tokenUrl", required(auth, "tokenUrl")?, policy)?,
        client_id: required(auth, "clientId")?.to_owned(),
        client_secret: required(auth, "clientSecret")?.into(),
        scope: auth
            .text("scope")?
            .filter(|scope| !scope.trim().is_empty())
            .map(str::to_owned),
    })
}

fn header_secret(auth: &Fields<'_>, name: &str) -> Result<SecretString, String> {
    let secret = required(auth, name)?;
    match HeaderValue::from_str(secret) {
        Ok(_) => Ok(secret.into()),
        Err(_) => Err(format!(
            "`{name}` holds a line break or another character that headers can't carry"
        )),
    }
}

fn required<'a>(auth: &Fields<'a>, name: &str) -> Result<&'a str, String> {
    let text = auth.text(name)?.filter(|text| !text.is_empty());
    text.ok_or_else(|| format!("`{name}` is missing or empty"))
}
