//! An attempt by hand: what goes over the wire, made fit for a person's eyes.

use bson::DateTime;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::Full;

use super::{Attempt, Client, Exchanged};
use crate::model::{Message, Outcome, printable};
use crate::platform::Endpoint;
use crate::sender::mask::{HIDDEN, Secrets};
use crate::sender::{guard, request, response};

/// A request without its secrets.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Method and address, the address without credentials and query.
    pub line: String,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
}

/// A response without the secrets of the endpoint, printable.
#[derive(Clone, Debug)]
pub struct ShownResponse {
    /// Its HTTP version.
    pub version: Version,
    /// Its status.
    pub status: StatusCode,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
    /// The first 1 KB of its body, as far as it came in time.
    pub body: String,
}

impl Client {
    /// The request of an attempt at `now`. Nobody is asked for anything: a token is said to be hidden, where one is wanted.
    ///
    /// # Errors
    /// The reason why it would not be sent.
    pub fn preview(&self, endpoint: &Endpoint, message: &Message, now: DateTime) -> Result<Preview, String> {
        guard::check_url(&endpoint.url, &self.policy).map_err(|refused| refused.to_string())?;
        let mut token = HeaderValue::from_static(HIDDEN);
        token.set_sensitive(true);
        let request = request::build(endpoint, message, &self.source, now, Some(&token));
        request
            .map(|request| Preview::of(&request))
            .map_err(|error| error.to_string())
    }

    /// As [`Client::attempt`], with the response, if there was one.
    pub async fn inspect(
        &self,
        endpoint: &Endpoint,
        message: &Message,
        now: DateTime,
    ) -> (Outcome, Option<ShownResponse>) {
        let attempt = Attempt::begin(endpoint, message, now);
        match self.exchange_authorized(&attempt).await {
            Ok(exchanged) => {
                let outcome = attempt.judge(&exchanged);
                (outcome, Some(ShownResponse::read(exchanged, &attempt).await))
            }
            Err(none) => (self.explain(&attempt, none).await, None),
        }
    }
}

impl Preview {
    fn of(request: &Request<Full<Bytes>>) -> Self {
        let (method, uri) = (request.method(), request.uri());
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let query = uri.query().map(|_| format!("?{HIDDEN}")).unwrap_or_default();
        Self {
            line: format!("{method} {scheme}://{authority}{}{query}", uri.path()),
            headers: listed(request.headers(), &Secrets::none()),
        }
    }
}

impl ShownResponse {
    async fn read(exchanged: Exchanged, attempt: &Attempt<'_>) -> Self {
        let secrets = Secrets::of(attempt.endpoint, exchanged.token.as_ref());
        let (head, body) = exchanged.response.into_parts();
        let body = response::excerpt(body, attempt.deadline, &secrets).await;
        Self {
            version: head.version,
            status: head.status,
            headers: listed(&head.headers, &secrets),
            body: body.unwrap_or_default(),
        }
    }
}

/// Sensitive values are the endpoint's own.
fn listed(headers: &HeaderMap, secrets: &Secrets) -> Vec<(String, String)> {
    let value = |value: &HeaderValue| match value.is_sensitive() {
        true => HIDDEN.to_owned(),
        false => printable(&secrets.mask(value.as_bytes(), usize::MAX), usize::MAX),
    };
    headers
        .iter()
        .map(|(name, text)| (name.to_string(), value(text)))
        .collect()
}
