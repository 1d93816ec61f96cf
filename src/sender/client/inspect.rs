//! An attempt by hand: what goes over the wire, made fit for a person's eyes.

use bson::DateTime;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::Full;
use tokio::time::Instant;

use super::{Attempt, Client};
use crate::model::{Message, Outcome};
use crate::platform::{Auth, Endpoint};
use crate::sender::{guard, request, response};

/// What stands in for a secret.
const HIDDEN: &str = "(hidden)";

/// A shorter value, in bytes, is not looked for in an answer: it would be found everywhere.
const MIN_SECRET: usize = 4;

/// A request without its secrets.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Method and address, the address without credentials and query.
    pub line: String,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
}

/// An answer, the secrets of the request taken out where the receiver says them back as they stand. Hostile text: escape it.
#[derive(Clone, Debug)]
pub struct ShownResponse {
    /// Its HTTP version.
    pub version: Version,
    /// Its status.
    pub status: StatusCode,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
    /// The first 64 KiB or so of its body, as far as they came in time.
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

    /// As [`Client::attempt`], with the answer, if there was one.
    pub async fn inspect(
        &self,
        endpoint: &Endpoint,
        message: &Message,
        now: DateTime,
    ) -> (Outcome, Option<ShownResponse>) {
        let attempt = Attempt::begin(endpoint, message, now);
        match self.answer(&attempt).await {
            Ok(response) => {
                let outcome = attempt.judge(&response);
                let secrets = self.secrets(&attempt).await;
                (
                    outcome,
                    Some(ShownResponse::read(response, &secrets, attempt.deadline).await),
                )
            }
            Err(none) => (attempt.without_response(none), None),
        }
    }

    /// What authenticated the request, and the other values that its sender keeps to itself.
    async fn secrets(&self, attempt: &Attempt<'_>) -> Vec<String> {
        let token = match &attempt.endpoint.auth {
            // The one that was just used is still held.
            Auth::OAuth2(credentials) => self.token(credentials, None, attempt).await.ok(),
            _ => None,
        };
        let sent = request::build(
            attempt.endpoint,
            attempt.message,
            &self.source,
            attempt.now,
            token.as_ref(),
        );
        sent.map(|sent| secrets_of(sent.headers())).unwrap_or_default()
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
            headers: listed(request.headers(), &[]),
        }
    }
}

impl ShownResponse {
    async fn read(response: Response<response::Body>, secrets: &[String], deadline: Instant) -> Self {
        let (head, body) = response.into_parts();
        let body = response::head_of(body, deadline).await;
        Self {
            version: head.version,
            status: head.status,
            headers: listed(&head.headers, secrets),
            body: masked(&body, secrets),
        }
    }
}

fn listed(headers: &HeaderMap, secrets: &[String]) -> Vec<(String, String)> {
    let value = |value: &HeaderValue| match value.is_sensitive() {
        true => HIDDEN.to_owned(),
        false => masked(value.as_bytes(), secrets),
    };
    headers
        .iter()
        .map(|(name, text)| (name.to_string(), value(text)))
        .collect()
}

/// The sensitive values; of credentials also what follows their scheme.
fn secrets_of(headers: &HeaderMap) -> Vec<String> {
    let sensitive = headers.values().filter(|value| value.is_sensitive());
    let whole = sensitive.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut secrets: Vec<_> = whole
        .flat_map(|whole| {
            let credentials = whole.split_once(' ').map(|(_, credentials)| credentials.to_owned());
            [Some(whole), credentials]
        })
        .flatten()
        .filter(|secret| secret.len() >= MIN_SECRET)
        .collect();
    // One may be part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

fn masked(text: &[u8], secrets: &[String]) -> String {
    let text = String::from_utf8_lossy(text).into_owned();
    secrets.iter().fold(text, |text, secret| text.replace(secret, HIDDEN))
}
