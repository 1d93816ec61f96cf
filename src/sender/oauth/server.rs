//! Asking a token server, through the same guard as everyone.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE};
use reqwest::redirect;
use secrecy::ExposeSecret;
use url::form_urlencoded;

use super::token_response::{self, Grant, NoToken};
use crate::platform::ClientCredentials;
use crate::sender::resolve::Resolver;
use crate::sender::{Policy, guard, reason};

/// The most headers in a response, as in curl.
const MAX_HEADERS: usize = 5_000;

/// The most of a response that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;
const AGENT: &str = concat!("certhookd/", env!("CARGO_PKG_VERSION"));

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
    http: reqwest::Client,
    policy: Arc<Policy>,
}

impl TokenServer {
    /// Resolves names by `resolver` and trusts what `tls` trusts.
    ///
    /// # Errors
    /// The HTTP client can't be built.
    pub(in crate::sender) fn new(
        policy: Arc<Policy>,
        resolver: Resolver,
        tls: rustls::ClientConfig,
    ) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(resolver)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .retry(reqwest::retry::never())
            // Minutes pass between two requests: no server keeps a connection for so long.
            .pool_max_idle_per_host(0)
            .user_agent(AGENT)
            // Nothing would come of HTTP/2 for one request but its faults.
            .http1_only()
            .http1_max_headers(MAX_HEADERS)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .build()?;
        Ok(Self { http, policy })
    }

    /// A new token, and where the server took the credentials.
    ///
    /// A server that refuses the client when its credentials stand in the `first` place is asked once more with them in the
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
        // The resolver is not asked about addresses, only about names.
        guard::check_url(&credentials.token_url, &self.policy)
            .map_err(|refused| NoToken::Broken(refused.to_string()))?;
        let mut response = self.request(credentials, placement).send().await.map_err(broken)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(NoToken::Broken("its response is longer than 64 KiB".into()));
            }
            body.extend_from_slice(&chunk);
        }
        token_response::read(response.status(), &body)
    }

    fn request(&self, credentials: &ClientCredentials, placement: Placement) -> reqwest::RequestBuilder {
        let (id, secret) = (&*credentials.client_id, credentials.client_secret.expose_secret());
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(scope) = &credentials.scope {
            form.append_pair("scope", scope);
        }
        let mut request = self.http.post(credentials.token_url.clone());
        match placement {
            Placement::Basic => request = request.basic_auth(encoded(id), Some(encoded(secret))),
            Placement::Form => {
                form.append_pair("client_id", id).append_pair("client_secret", secret);
            }
        }
        request
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.finish())
    }
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

/// reqwest's errors name the URL.
fn broken(error: reqwest::Error) -> NoToken {
    NoToken::Broken(reason::of(&error.without_url()))
}
