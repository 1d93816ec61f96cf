//! The request, as docs/receivers.md describes it.

use bson::DateTime;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use url::{Position, Url};

use super::{auth, sign};
use crate::model::Message;
use crate::platform::{Endpoint, is_reserved};

const SOURCE: HeaderName = HeaderName::from_static("x-webhook-source");
const EVENT: HeaderName = HeaderName::from_static("x-webhook-event");
const TEST: HeaderName = HeaderName::from_static("x-webhook-test");
const REPLAY: HeaderName = HeaderName::from_static("x-webhook-replay");
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const AGENT: HeaderValue = HeaderValue::from_static(concat!("certhookd/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why an endpoint can't be sent to as it is configured. Names no secret.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    /// A user name, password, token or key.
    #[error("auth: its credentials hold a character that no header may hold")]
    Credentials,
    /// An API key in a header that is the transport's or ours.
    #[error("auth: the header {0} is reserved")]
    ReservedHeader(HeaderName),
    /// OAuth2, and no token.
    #[error("auth: it wants a token, and there is none")]
    NoToken,
    /// A secret that can't sign.
    #[error("signing secret {number} is empty or not base64")]
    SigningSecret {
        /// Its place in the list, the first being 1.
        number: usize,
    },
    /// A URL or header that HTTP does not know.
    #[error("the request can't be built: {0}")]
    Http(#[from] http::Error),
}

impl From<http::header::InvalidHeaderValue> for Unsendable {
    fn from(error: http::header::InvalidHeaderValue) -> Self {
        Self::Http(error.into())
    }
}

/// Builds the request that delivers `message` to `endpoint` at `now`, with `token` where it wants OAuth2.
///
/// # Errors
/// [`Unsendable`] if the endpoint's secrets, headers or URL make no request.
pub(super) fn build(
    endpoint: &Endpoint,
    message: &Message,
    source: &HeaderValue,
    now: DateTime,
    token: Option<&HeaderValue>,
) -> Result<Request<Full<Bytes>>, Unsendable> {
    let timestamp = now.timestamp_millis().div_euclid(1000);
    let mut headers = own_headers(endpoint);
    headers.entry(USER_AGENT).or_insert(AGENT);
    headers.entry(SOURCE).or_insert_with(|| source.clone());
    headers
        .entry(EVENT)
        .or_insert(HeaderValue::from_static(message.event_type.as_str()));
    auth::authenticate(&mut headers, endpoint, token)?;
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(ID, HeaderValue::from_str(message.event_id.as_str())?);
    if message.is_replay {
        headers.insert(REPLAY, HeaderValue::from_static("true"));
    }
    headers.insert(TIMESTAMP, HeaderValue::from(timestamp));
    if let Some(signature) = sign::sign(&endpoint.signing_secrets, message, timestamp)? {
        headers.insert(SIGNATURE, signature);
    }
    let mut request = Request::new(Full::new(message.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target(&endpoint.url)?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn own_headers(endpoint: &Endpoint) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(endpoint.headers.len() + 8);
    // `X-Webhook-Test` marks a sample: an organization can't set it, because its headers of reserved names are refused.
    let is_ours = |name: &HeaderName| *name == TEST || !is_reserved(name);
    for (name, value) in endpoint.headers.iter().filter(|(name, _)| is_ours(name)) {
        headers.append(name, value.clone());
    }
    headers
}

/// The URL without its credentials and its fragment: neither belongs on the wire.
fn target(url: &Url) -> Result<Uri, http::Error> {
    Uri::builder()
        .scheme(url.scheme())
        .authority(&url[Position::BeforeHost..Position::AfterPort])
        .path_and_query(&url[Position::BeforePath..Position::AfterQuery])
        .build()
}
