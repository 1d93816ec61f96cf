//! How an endpoint authenticates. What is unknown or incomplete is refused: it must never mean "not at all".

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::field::{Fields, wrong_type};
use super::{EndpointPolicy, Envelopes, address};
use crate::envelope::AUTH_FIELDS;
use crate::platform::{Auth, ClientCredentials, is_reserved};

/// The header of an `api_key` that names none.
const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// The endpoint's `auth`; none when it is absent or null.
pub(super) fn read(endpoint: &Fields<'_>, policy: &EndpointPolicy, envelopes: Envelopes<'_>) -> Result<Auth, String> {
    let Some(value) = endpoint.present("auth")? else {
        return Ok(Auth::None);
    };
    let auth = value
        .as_document()
        .ok_or_else(|| wrong_type("auth", value, "a document"))?;
    let names: Vec<_> = AUTH_FIELDS.into_iter().chain(["authType"]).collect();
    let source = Source {
        fields: Fields::read(auth, &names),
        envelopes,
    };
    source.auth(policy).map_err(|reason| format!("`auth`: {reason}"))
}

/// The fields of an `auth`; each may be encrypted, but not its type.
struct Source<'a> {
    fields: Fields<'a>,
    envelopes: Envelopes<'a>,
}

impl Source<'_> {
    fn auth(&self, policy: &EndpointPolicy) -> Result<Auth, String> {
        let auth_type = self.fields.text("authType")?.filter(|text| !text.is_empty());
        match auth_type.ok_or_else(|| missing("authType"))? {
            "none" => Ok(Auth::None),
            "bearer_token" => Ok(Auth::Bearer {
                token: self.header_secret("token")?,
            }),
            "basic_auth" => self.basic(),
            "api_key" => Ok(Auth::ApiKey {
                header: self.api_key_header()?,
                key: self.header_secret("key")?,
            }),
            "oauth2_client_credentials" => self.client_credentials(policy).map(Auth::OAuth2),
            // Not quoted: it may be a secret that got into the wrong field.
            _ => Err(
                "`authType` is not one of none, bearer_token, basic_auth, api_key, oauth2_client_credentials"
                    .to_owned(),
            ),
        }
    }

    /// The password may be empty, as where a key takes the place of the user name.
    fn basic(&self) -> Result<Auth, String> {
        let username = self.required("username")?;
        if username.expose_secret().contains(':') {
            return Err("`username` holds a colon, which ends the name (RFC 7617)".to_owned());
        }
        Ok(Auth::Basic {
            username: username.expose_secret().to_owned(),
            password: self.text("password")?.ok_or("`password` is missing")?,
        })
    }

    /// Blank counts as absent here: it is an input left empty, and the default is what was meant.
    fn api_key_header(&self) -> Result<HeaderName, String> {
        let Some(name) = self.text("header")?.filter(|name| !name.expose_secret().is_empty()) else {
            return Ok(API_KEY_HEADER);
        };
        let name = HeaderName::from_bytes(name.expose_secret().as_bytes());
        let name = name.map_err(|_| "`header` is not a header name")?;
        if is_reserved(&name) {
            return Err("`header` is one that the daemon sets itself".to_owned());
        }
        Ok(name)
    }

    /// Blank counts as absent for `scope`: the token server decides then (RFC 6749, 3.3).
    fn client_credentials(&self, policy: &EndpointPolicy) -> Result<ClientCredentials, String> {
        let token_url = self.required("tokenUrl")?;
        let scope = self.text("scope")?;
        let scope = scope.as_ref().map(|scope| scope.expose_secret());
        Ok(ClientCredentials {
            token_url: address::read("tokenUrl", token_url.expose_secret(), policy)?,
            client_id: self.required("clientId")?.expose_secret().to_owned(),
            client_secret: self.required("clientSecret")?,
            scope: scope.filter(|scope| !scope.trim().is_empty()).map(str::to_owned),
        })
    }

    fn header_secret(&self, name: &str) -> Result<SecretString, String> {
        let secret = self.required(name)?;
        match HeaderValue::from_str(secret.expose_secret()) {
            Ok(_) => Ok(secret),
            Err(_) => Err(format!(
                "`{name}` holds a line break or another character that headers can't carry"
            )),
        }
    }

    fn required(&self, name: &str) -> Result<SecretString, String> {
        let text = self.text(name)?.filter(|text| !text.expose_secret().is_empty());
        text.ok_or_else(|| missing(name))
    }

    fn text(&self, name: &str) -> Result<Option<SecretString>, String> {
        let text = self.fields.text(name)?;
        let read = text.map(|text| self.envelopes.read(&format!("auth.{name}"), text));
        read.transpose().map_err(|why| format!("`{name}` {why}"))
    }
}

fn missing(name: &str) -> String {
    format!("`{name}` is missing or empty")
}
