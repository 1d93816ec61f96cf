//! Asking a token server, through the same guard as everyone.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use secrecy::ExposeSecret;
use url::{Position, form_urlencoded};

use super::token_response::{self, Grant, NoToken};
use crate::platform::ClientCredentials;
use crate::sender::connector::{self, Http};
use crate::sender::proxy::NoTunnel;
use crate::sender::route::Route;
use crate::sender::{Policy, guard, reason};

/// The most headers in a response, as in curl.
const MAX_HEADERS: usize = 5_000;

/// The most of a response that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("certhookd/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// Where a request carries the client's id and secret (RFC 6749, 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Placement {
    /// HTTP Basic, which every token server must support.
    #[default]
    Basic,
    /// In the form, all that some servers take.
    Form,
}

/// What asks token servers.
#[derive(Clone)]
pub(in crate::sender) struct TokenServer {
    http: Http,
    policy: Arc<Policy>,
}

impl TokenServer {
    /// Goes by `route` and trusts what `tls` trusts. Nothing would come of HTTP/2 for one request but its faults, and minutes pass
    /// between two: no server keeps a connection for so long.
    pub(in crate::sender) fn new(policy: Arc<Policy>, route: Route, tls: rustls::ClientConfig) -> Self {
        let http = connector::occasional(&policy, route, tls, MAX_HEADERS);
        Self { http, policy }
    }

    /// A new token, and where the server took the credentials.
    ///
    /// A server that refuses the client when its credentials are in the `first` place is asked once more with them in the
    /// other: there is no other way to tell which one it reads.
    ///
    /// # Errors
    /// [`NoToken`]; of two refusals the one that says more.
    pub(super) async fn fetch(
        &self,
        credentials: &ClientCredentials,
        first: Placement,
    ) -> Result<(Grant, Placement), NoToken> {
        let refused = match self.ask(credentials, first).await {
            Err(refused) if refused.is_about_client() => refused,
            asked => return asked.map(|grant| (grant, first)),
        };
        let second = first.other();
        match self.ask(credentials, second).await {
            Err(again) if refused.weight() > again.weight() => Err(refused),
            asked => asked.map(|grant| (grant, second)),
        }
    }

    async fn ask(&self, credentials: &ClientCredentials, placement: Placement) -> Result<Grant, NoToken> {
        guard::check_url(&credentials.token_url, &self.policy)
            .map_err(|refused| NoToken::Broken(refused.to_string()))?;
        let request = request(credentials, placement).map_err(|error| NoToken::Broken(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| broken(&error))?;
        let (head, mut body) = response.into_parts();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| NoToken::Broken(reason::of(&error)))?;
            let Some(chunk) = frame.data_ref() else { continue };
            if read.len() + chunk.len() > MAX_BODY {
                return Err(NoToken::Broken("its response is longer than 64 KiB".into()));
            }
            read.extend_from_slice(chunk);
        }
        token_response::read(head.status, &read)
    }
}

fn request(credentials: &ClientCredentials, placement: Placement) -> Result<Request<Full<Bytes>>, http::Error> {
    let (id, secret) = (&*credentials.client_id, credentials.client_secret.expose_secret());
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if let Some(scope) = &credentials.scope {
        form.append_pair("scope", scope);
    }
    let url = &credentials.token_url;
    let uri = Uri::builder()
        .scheme(url.scheme())
        .authority(&url[Position::BeforeHost..Position::AfterPort])
        .path_and_query(&url[Position::BeforePath..Position::AfterQuery]);
    let mut request = Request::builder().method(Method::POST).uri(uri.build()?);
    match placement {
        Placement::Basic => request = request.header(AUTHORIZATION, basic(&encoded(id), &encoded(secret))?),
        Placement::Form => {
            form.append_pair("client_id", id).append_pair("client_secret", secret);
        }
    }
    request
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, JSON)
        .header(CONTENT_TYPE, FORM)
        .body(Full::new(form.finish().into()))
}

/// HTTP Basic (RFC 7617), marked sensitive.
fn basic(user: &str, password: &str) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Placement {
    fn other(self) -> Self {
        match self {
            Self::Basic => Self::Form,
            Self::Form => Self::Basic,
        }
    }
}

/// Id and secret are form-encoded before they make HTTP Basic (RFC 6749, 2.3.1), so that both may hold a colon.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn broken(error: &legacy::Error) -> NoToken {
    match reason::find::<NoTunnel>(error).and_then(NoTunnel::proxy_fault) {
        Some(reason) => NoToken::ProxyUnavailable(reason.to_owned()),
        None if reason::is_in_transit(error) => NoToken::BrokenInTransit(reason::of(error)),
        None => NoToken::Broken(reason::of(error)),
    }
}
