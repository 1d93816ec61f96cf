//! An endpoint that makes sense: what an organization configured, validated.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};
use secrecy::SecretString;
use url::Url;

use super::Tls;
use crate::model::{EndpointKey, EventType};

/// Where one organization wants its events. Only sensible ones exist: see `member_config` for what is refused.
#[derive(Clone)]
pub struct Endpoint {
    /// Its name in the outbox, the log and the statistics.
    pub key: EndpointKey,
    /// The organization's label for it: hostile input, escape it.
    pub name: String,
    /// Where to POST. May hold secrets: never log it.
    pub url: Url,
    /// Whether the organization switched it on.
    pub enabled: bool,
    /// The event types it subscribed to, of those that this daemon knows.
    pub event_types: Vec<EventType>,
    /// How long to wait for the whole response: 1 s to 30 s.
    pub timeout: Duration,
    /// The organization's extra request headers, the forbidden ones taken out. Values are marked sensitive.
    pub headers: HeaderMap,
    /// How to authenticate.
    pub auth: Auth,
    /// `whsec_…` secrets of Standard Webhooks, newest first: all of them sign.
    pub signing_secrets: Vec<SecretString>,
    /// Parallel requests; `None`: as many as the operator allows.
    pub concurrency: Option<u32>,
    /// Requests a second, more than 0; `None`: no limit.
    pub rate_limit: Option<f64>,
    /// Certificates of its own.
    pub tls: Option<Arc<Tls>>,
}

/// How requests to an endpoint authenticate.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Not at all.
    None,
    /// `Authorization: Bearer TOKEN`.
    Bearer {
        /// The token.
        token: SecretString,
    },
    /// `Authorization: Basic …`.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// A key in a header of the endpoint's choice.
    ApiKey {
        /// The header, `X-API-Key` by default.
        header: HeaderName,
        /// The key.
        key: SecretString,
    },
    /// `Authorization: Bearer …`, with a token that a token server gives.
    OAuth2(ClientCredentials),
}

/// What a token is asked for with: OAuth2 client credentials (RFC 6749, 4.4).
#[derive(Clone)]
pub struct ClientCredentials {
    /// Where to ask. May hold secrets: never log it.
    pub token_url: Url,
    /// The client's name at the token server.
    pub client_id: String,
    /// The client's secret there.
    pub client_secret: SecretString,
    /// What the token must be valid for, where the server asks for that.
    pub scope: Option<String>,
}

impl Endpoint {
    /// The contract's filter: switched on, and subscribed to this type.
    pub fn wants(&self, event_type: EventType) -> bool {
        self.enabled && self.event_types.contains(&event_type)
    }

    /// Where requests for it go: to itself, and to its token server.
    pub fn urls(&self) -> impl Iterator<Item = &Url> {
        let token_url = match &self.auth {
            Auth::OAuth2(credentials) => Some(&credentials.token_url),
            _ => None,
        };
        std::iter::once(&self.url).chain(token_url)
    }
}

impl fmt::Debug for ClientCredentials {
    /// Shows only the origin of the URL, as of an endpoint's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("token_url", &self.token_url.origin().ascii_serialization())
            .field("client_id", &self.client_id)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Endpoint {
    /// Shows only the origin of the URL: path and query may each hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("key", &self.key)
            .field("name", &self.name)
            .field("url", &self.url.origin().ascii_serialization())
            .field("enabled", &self.enabled)
            .field("event_types", &self.event_types)
            .field("timeout", &self.timeout)
            .field("headers", &self.headers)
            .field("auth", &self.auth)
            .field("concurrency", &self.concurrency)
            .field("rate_limit", &self.rate_limit)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Whether an endpoint's own headers may not set this one: it belongs to the transport or to the daemon.
pub fn is_reserved(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, CONTENT_TYPE].contains(name)
        || ["x-webhook-event", "x-webhook-test", "x-webhook-replay"].contains(&name.as_str())
        || name.as_str().starts_with("webhook-")
}
