//! One attempt, from message to outcome.

mod exchange;
mod inspect;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Body as _;
use tokio::time::Instant;
use url::Url;

use super::connector::Clients;
use super::dedicated::Dedicated;
use super::lookup::system_lookup;
use super::mask::Secrets;
use super::oauth::{NoToken, TokenServer, TokenSource, Tokens};
use super::protocol::Http1Hosts;
use super::proxy::Proxy;
use super::request::Unsendable;
use super::resolve::{Lookup, Resolver};
use super::route::Route;
use super::tls::Trust;
use super::{Policy, guard, response};
use crate::model::{Failure, Message, Outcome};
use crate::platform::{Auth, ClientCredentials, Endpoint};

pub use inspect::{Preview, ShownResponse};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The platform's certificates can't be used.
    #[error("TLS can't be set up: {0}; install ca-certificates or point SSL_CERT_FILE at a bundle")]
    Tls(#[from] rustls::Error),
    /// `delivery.source` can't be written in a header.
    #[error("delivery.source: it holds a character that no header may hold")]
    Source(#[from] http::header::InvalidHeaderValue),
}

/// Sends messages. One for the whole daemon: it holds the connections.
#[derive(Clone)]
pub struct Client {
    policy: Arc<Policy>,
    source: HeaderValue,
    trust: Trust,
    shared: Arc<Transports>,
    /// Of endpoints with certificates of their own.
    dedicated: Dedicated<Transports>,
    http1_hosts: Http1Hosts,
    tokens: Tokens,
    route: Route,
}

/// What goes over connections that trust the same authorities and show the same certificate.
struct Transports {
    any_version: Clients,
    http1: Clients,
    token_server: TokenServer,
}

impl Transports {
    fn new(policy: &Arc<Policy>, route: &Route, tls: &rustls::ClientConfig) -> Self {
        Self {
            any_version: Clients::new(policy, route.clone(), tls.clone(), false),
            http1: Clients::new(policy, route.clone(), tls.clone(), true),
            token_server: TokenServer::new(Arc::clone(policy), route.clone(), tls.clone()),
        }
    }
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

/// A response, and what is known of how it came.
struct Exchanged {
    response: Response<response::Body>,
    /// How long the request waited for its connection.
    connect: Duration,
    /// The OAuth2 token that it was authenticated with.
    token: Option<HeaderValue>,
}

/// Why an attempt got no response. `connect` is how long the request waited for its connection, if it got one.
enum NoResponse {
    Unsendable(Unsendable),
    Broken {
        reason: String,
        connect: Option<Duration>,
        /// Whether a proxy on the way may have caused it.
        in_transit: bool,
    },
    Timeout {
        connect: Option<Duration>,
    },
    /// There was no token to send it with.
    NoToken(NoToken),
    /// It was not attempted.
    ProxyUnavailable(String),
}

impl NoResponse {
    /// It failed before there was a connection.
    fn unconnected(reason: String) -> Self {
        Self::Broken {
            reason,
            connect: None,
            in_transit: false,
        }
    }

    /// The receiver was shown a certificate, and closed the connection.
    fn perhaps_for_certificate(self) -> Self {
        match self {
            Self::Broken {
                reason,
                connect,
                in_transit,
            } => Self::Broken {
                reason: format!("{reason}: perhaps the receiver refuses the client's certificate"),
                connect,
                in_transit,
            },
            none => none,
        }
    }
}

impl Client {
    /// A client that resolves names as the system does. The platform's certificates are read now, once.
    ///
    /// # Errors
    /// [`ClientError`] if no certificates are found or the policy's `source` is no header value.
    pub fn new(policy: Policy) -> Result<Self, ClientError> {
        Self::with_proxy(policy, system_lookup(), Proxy::none())
    }

    /// A client that resolves names by `lookup`. Its results pass the same guard.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_lookup(policy: Policy, lookup: Lookup) -> Result<Self, ClientError> {
        Self::with_proxy(policy, lookup, Proxy::none())
    }

    /// A client that reaches endpoints through `proxy`, where that is configured. What `lookup` finds passes the guard before the
    /// proxy is asked for it.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_proxy(policy: Policy, lookup: Lookup, proxy: Proxy) -> Result<Self, ClientError> {
        let source = HeaderValue::from_str(&policy.source)?;
        let policy = Arc::new(policy);
        let route = Route {
            resolver: Resolver::new(Arc::clone(&policy), lookup),
            proxy,
        };
        let trust = Trust::of_system()?;
        Ok(Self {
            shared: Arc::new(Transports::new(&policy, &route, &trust.config()?)),
            dedicated: Dedicated::default(),
            http1_hosts: Http1Hosts::default(),
            tokens: Tokens::default(),
            route,
            policy,
            source,
            trust,
        })
    }

    /// Tries once to deliver `message` to `endpoint`; `now` is the request's timestamp.
    ///
    /// `endpoint.timeout` bounds it all: a token, resolving, connecting, TLS, sending, and the response's head. A 2xx within it is a
    /// success, whatever its body does. An endpoint that can't be sent to as configured ends as [`Outcome::Cancelled`]. What the proxy
    /// is at fault with ends as [`Outcome::ProxyUnavailable`].
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
        match self.exchange_authorized(&attempt).await {
            Ok(exchanged) => self.conclude(&attempt, exchanged).await,
            Err(none) => self.explain(&attempt, none).await,
        }
    }

    /// What the proxy would be asked for to reach that endpoint, `ADDRESS:PORT`; `None` where it is reached directly, or not at all.
    pub async fn proxied_target(&self, endpoint: &Endpoint) -> Option<String> {
        let url = &endpoint.url;
        guard::check_url(url, &self.policy).ok()?;
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let addresses = self.route.resolver.addresses(host).await.ok()?;
        self.route.proxy.for_addresses(host, &addresses)?;
        Some(SocketAddr::new(*addresses.first()?, port).to_string())
    }

    /// Why there was no response: the endpoint's failure, or the proxy's.
    async fn explain(&self, attempt: &Attempt<'_>, none: NoResponse) -> Outcome {
        let asked = match &none {
            NoResponse::Timeout { .. } | NoResponse::Broken { in_transit: true, .. } => Some(&attempt.endpoint.url),
            NoResponse::NoToken(none) if none.may_be_in_transit() => attempt.token_url(),
            _ => None,
        };
        let outcome = attempt.without_response(none);
        // Boxed, as it is rare and large.
        if let Some(url) = asked
            && let Some(reason) = Box::pin(self.route.proxy.diagnose(url, attempt.start)).await
        {
            return Outcome::ProxyUnavailable { reason };
        }
        outcome
    }

    /// What the response means. Its body is read so that the connection can be used again; how it begins is kept of a failure.
    async fn conclude(&self, attempt: &Attempt<'_>, exchanged: Exchanged) -> Outcome {
        let mut outcome = attempt.judge(&exchanged);
        let body = exchanged.response.into_body();
        match &mut outcome {
            Outcome::TransientFailure(failure) | Outcome::Gone(failure)
                if self.policy.keep_responses && !body.is_end_stream() =>
            {
                let secrets = Secrets::of(attempt.endpoint, exchanged.token.as_ref());
                failure.response = response::drain_to_excerpt(body, attempt.deadline, &secrets).await;
            }
            _ => response::drain(body, attempt.deadline).await,
        }
        outcome
    }

    /// Sends the request as the endpoint wants it, and once more with a new token where it refuses the one it got.
    async fn exchange_authorized(&self, attempt: &Attempt<'_>) -> Result<Exchanged, NoResponse> {
        guard::check_url(&attempt.endpoint.url, &self.policy)
            .map_err(|refused| NoResponse::unconnected(refused.to_string()))?;
        let transports = self.transports(attempt.endpoint).map_err(NoResponse::unconnected)?;
        let Auth::OAuth2(credentials) = &attempt.endpoint.auth else {
            return self.exchange(attempt, &transports, None).await;
        };
        let token = self.token(credentials, None, attempt, &transports).await?;
        let exchanged = self.exchange(attempt, &transports, Some(&token)).await?;
        if exchanged.response.status() != StatusCode::UNAUTHORIZED {
            return Ok(exchanged);
        }
        response::drain(exchanged.response.into_body(), attempt.deadline).await;
        let renewed = self.token(credentials, Some(&token), attempt, &transports).await?;
        self.exchange(attempt, &transports, Some(&renewed)).await
    }

    /// What sends to the endpoint: to one with certificates of its own nothing that sends to another.
    fn transports(&self, endpoint: &Endpoint) -> Result<Arc<Transports>, String> {
        let Some(tls) = &endpoint.tls else {
            return Ok(Arc::clone(&self.shared));
        };
        let make = || Ok(Transports::new(&self.policy, &self.route, &self.trust.config_of(tls)?));
        let made: Result<_, ClientError> = self.dedicated.get(&endpoint.key, tls, make);
        made.map_err(|error| format!("tls: the endpoint's certificates can't be used: {error}"))
    }

    async fn token(
        &self,
        credentials: &ClientCredentials,
        refused: Option<&HeaderValue>,
        attempt: &Attempt<'_>,
        transports: &Transports,
    ) -> Result<HeaderValue, NoResponse> {
        let source = TokenSource {
            server: &transports.token_server,
            credentials,
            tls: attempt.endpoint.tls.as_ref().map(|tls| tls.fingerprint),
        };
        let token = self
            .tokens
            .authorization(source, refused, attempt.now, attempt.deadline);
        token.await.map_err(NoResponse::NoToken)
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

    /// Whether the receiver sees a certificate, if it asks for one.
    fn shows_certificate(&self) -> bool {
        let tls = self.endpoint.tls.as_ref();
        tls.is_some_and(|tls| tls.identity.is_some()) && self.endpoint.url.scheme() == "https"
    }

    fn judge(&self, exchanged: &Exchanged) -> Outcome {
        response::judge(&exchanged.response, self.now, self.start.elapsed(), exchanged.connect)
    }

    fn token_url(&self) -> Option<&'a Url> {
        match &self.endpoint.auth {
            Auth::OAuth2(credentials) => Some(&credentials.token_url),
            _ => None,
        }
    }

    fn without_response(&self, none: NoResponse) -> Outcome {
        let timed_out = matches!(none, NoResponse::Timeout { .. });
        let (reason, connect) = match none {
            NoResponse::Unsendable(error) => {
                return Outcome::Cancelled {
                    reason: error.to_string(),
                };
            }
            NoResponse::ProxyUnavailable(reason) => return Outcome::ProxyUnavailable { reason },
            NoResponse::NoToken(none) => match none.proxy_fault() {
                Some(reason) => {
                    return Outcome::ProxyUnavailable {
                        reason: reason.to_owned(),
                    };
                }
                None => (none.to_string(), None),
            },
            NoResponse::Broken { reason, connect, .. } => (reason, connect),
            NoResponse::Timeout { connect } => {
                let what = if connect.is_some() {
                    "no response"
                } else {
                    "no connection"
                };
                let after = self.endpoint.timeout.as_millis();
                (format!("timeout after {after} ms: {what}"), connect)
            }
        };
        Outcome::TransientFailure(Failure {
            reason,
            elapsed: self.start.elapsed(),
            timed_out,
            connect,
            ..Failure::default()
        })
    }
}
