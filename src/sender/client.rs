//! One attempt, from message to outcome.

mod inspect;

use std::io::{self, ErrorKind};
use std::sync::Arc;

use bson::DateTime;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tokio::time::{Instant, timeout_at};

use super::connection::History;
use super::connector::{self, Http};
use super::lookup::system_lookup;
use super::oauth::Tokens;
use super::request::{self, Unsendable};
use super::resolve::{Lookup, Resolver};
use super::{Policy, answer, guard, reason};
use crate::model::{Failure, Message, Outcome};
use crate::platform::{Auth, ClientCredentials, Endpoint};

pub use inspect::{Answer, Preview};

/// How a transport reports that the other side has closed it. Over TLS a missing farewell is an unexpected end.
const CLOSED: [ErrorKind; 4] = [
    ErrorKind::BrokenPipe,
    ErrorKind::ConnectionAborted,
    ErrorKind::ConnectionReset,
    ErrorKind::UnexpectedEof,
];

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The platform's certificates can't be used.
    #[error("TLS can't be set up: {0}; install ca-certificates or point SSL_CERT_FILE at a bundle")]
    Tls(#[from] rustls::Error),
    /// What asks token servers can't be set up.
    #[error("the client for token servers can't be set up: {0}")]
    Tokens(#[from] reqwest::Error),
    /// `delivery.source` can't stand in a header.
    #[error("delivery.source: it holds a character that no header may hold")]
    Source(#[from] http::header::InvalidHeaderValue),
}

/// Sends messages. One for the whole daemon: it holds the connections. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    policy: Arc<Policy>,
    source: HeaderValue,
    pooled: Http,
    fresh: Http,
    tokens: Tokens,
}

/// What one attempt is about.
struct Attempt<'a> {
    endpoint: &'a Endpoint,
    /// The request's `traceparent`.
    trace: Option<HeaderValue>,
    message: &'a Message,
    now: DateTime,
    start: Instant,
    deadline: Instant,
}

/// Why an attempt got no answer.
enum NoAnswer {
    Unsendable(Unsendable),
    Broken(String),
    Timeout { connected: bool },
}

impl Client {
    /// A client that resolves names as the system does. The platform's certificates are read now, once.
    ///
    /// # Errors
    /// [`ClientError`] if no certificates are found or the policy's `source` is no header value.
    pub fn new(policy: Policy) -> Result<Self, ClientError> {
        Self::with_lookup(policy, system_lookup())
    }

    /// A client that resolves names by `lookup`. Its results pass the same guard.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_lookup(policy: Policy, lookup: Lookup) -> Result<Self, ClientError> {
        let source = HeaderValue::from_str(&policy.source)?;
        let policy = Arc::new(policy);
        let resolver = Resolver::new(Arc::clone(&policy), lookup);
        let tls = connector::tls_config()?;
        let (pooled, fresh) = connector::clients(&policy, resolver.clone(), tls.clone());
        Ok(Self {
            tokens: Tokens::new(Arc::clone(&policy), resolver, tls)?,
            policy,
            source,
            pooled,
            fresh,
        })
    }

    /// Tries once to deliver `message` to `endpoint`; `now` is the request's timestamp.
    ///
    /// `endpoint.timeout` bounds it all: a token, resolving, connecting, TLS, sending, and the answer's head. A 2xx within it is a
    /// success, whatever its body does. An endpoint that can't be sent to as configured ends as [`Outcome::Cancelled`].
    pub async fn attempt(&self, endpoint: &Endpoint, message: &Message, now: DateTime) -> Outcome {
        self.attempt_traced(endpoint, message, now, None).await
    }

    /// The same; the request's `traceparent` is `trace`, if there is one, whatever the endpoint's own headers say.
    pub async fn attempt_traced(
        &self,
        endpoint: &Endpoint,
        message: &Message,
        now: DateTime,
        trace: Option<HeaderValue>,
    ) -> Outcome {
        let attempt = Attempt {
            trace,
            ..Attempt::begin(endpoint, message, now)
        };
        match self.answer(&attempt).await {
            Ok(response) => {
                let outcome = attempt.judge(&response);
                answer::drain(response.into_body(), attempt.deadline).await;
                outcome
            }
            Err(none) => attempt.without_answer(none),
        }
    }

    /// Sends the request as the endpoint wants it, and once more with a new token where it refuses the one it got.
    async fn answer(&self, attempt: &Attempt<'_>) -> Result<Response<Incoming>, NoAnswer> {
        guard::check_url(&attempt.endpoint.url, &self.policy)
            .map_err(|refused| NoAnswer::Broken(refused.to_string()))?;
        let Auth::OAuth2(credentials) = &attempt.endpoint.auth else {
            return self.exchange(attempt, None).await;
        };
        let token = self.token(credentials, None, attempt).await?;
        let response = self.exchange(attempt, Some(&token)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        answer::drain(response.into_body(), attempt.deadline).await;
        let renewed = self.token(credentials, Some(&token), attempt).await?;
        self.exchange(attempt, Some(&renewed)).await
    }

    async fn token(
        &self,
        credentials: &ClientCredentials,
        refused: Option<&HeaderValue>,
        attempt: &Attempt<'_>,
    ) -> Result<HeaderValue, NoAnswer> {
        let token = self
            .tokens
            .authorization(credentials, refused, attempt.now, attempt.deadline);
        token.await.map_err(NoAnswer::Broken)
    }

    /// Sends the request, and once more over a new connection where a pooled one turned out to be closed.
    async fn exchange(
        &self,
        attempt: &Attempt<'_>,
        token: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let build = || {
            let mut request = request::build(attempt.endpoint, attempt.message, &self.source, attempt.now, token)
                .map_err(NoAnswer::Unsendable)?;
            if let Some(trace) = &attempt.trace {
                request.headers_mut().insert(TRACEPARENT, trace.clone());
            }
            Ok(request)
        };
        let mut sent = send(&self.pooled, build()?, attempt.deadline).await?;
        if sent.as_ref().is_err_and(was_stale) {
            sent = send(&self.fresh, build()?, attempt.deadline).await?;
        }
        let response = sent.map_err(|error| NoAnswer::Broken(reason::of(&error)))?;
        if let Some(history) = response.extensions().get::<History>() {
            history.answered();
        }
        Ok(response)
    }
}

impl<'a> Attempt<'a> {
    /// Its time runs from now.
    fn begin(endpoint: &'a Endpoint, message: &'a Message, now: DateTime) -> Self {
        let start = Instant::now();
        Self {
            endpoint,
            trace: None,
            message,
            now,
            start,
            deadline: start + endpoint.timeout,
        }
    }

    fn judge(&self, head: &Response<Incoming>) -> Outcome {
        answer::judge(head, self.now, self.start.elapsed())
    }

    fn without_answer(&self, none: NoAnswer) -> Outcome {
        let timed_out = matches!(none, NoAnswer::Timeout { .. });
        let reason = match none {
            NoAnswer::Unsendable(error) => {
                return Outcome::Cancelled {
                    reason: error.to_string(),
                };
            }
            NoAnswer::Broken(reason) => reason,
            NoAnswer::Timeout { connected } => {
                let what = if connected { "no answer" } else { "no connection" };
                format!("timeout after {} ms: {what}", self.endpoint.timeout.as_millis())
            }
        };
        Outcome::TransientFailure(Failure {
            status: None,
            reason,
            retry_after: None,
            elapsed: self.start.elapsed(),
            timed_out,
        })
    }
}

/// Sends within the deadline. A connection that let it pass is not used again: over HTTP/2 it would be shared.
async fn send(
    http: &Http,
    mut request: Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Result<Response<Incoming>, legacy::Error>, NoAnswer> {
    let connection = capture_connection(&mut request);
    let sent = timeout_at(deadline, http.request(request)).await;
    sent.map_err(|_| NoAnswer::Timeout {
        connected: poison(&connection),
    })
}

/// Takes the connection out of the pool, if there was one.
fn poison(connection: &CaptureConnection) -> bool {
    let connected = connection.connection_metadata();
    connected.as_ref().inspect(|connection| connection.poison()).is_some()
}

/// Whether the receiver had closed, or was closing, a connection that had answered before: a matter of keep-alive, which
/// says nothing of the receiver's health (RFC 9112, 9.3.1; for HTTP/2 RFC 9113, 8.7).
fn was_stale(error: &legacy::Error) -> bool {
    error.connect_info().is_some_and(History::of) && closed_without_answer(error)
}

fn closed_without_answer(error: &legacy::Error) -> bool {
    if let Some(error) = reason::find::<h2::Error>(error) {
        let unprocessed = matches!(error.reason(), Some(h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM));
        return error.is_io() || error.is_remote() && unprocessed;
    }
    let incomplete = reason::find::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message);
    incomplete || reason::find::<io::Error>(error).is_some_and(|error| CLOSED.contains(&error.kind()))
}
