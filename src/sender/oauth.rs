//! OAuth2 client credentials (RFC 6749, 4.4): the tokens that endpoints ask for, kept while they last.

mod server;
mod token_response;

use std::collections::HashMap;
use std::sync::Arc;

use bson::DateTime;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::HeaderValue;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};
use url::Url;

use self::server::Placement;
pub(super) use self::server::TokenServer;
use self::token_response::Grant;
pub(super) use self::token_response::NoToken;
use crate::platform::ClientCredentials;

/// The tokens of all endpoints.
#[derive(Clone, Default)]
pub(super) struct Tokens(Arc<Mutex<HashMap<Key, Held>>>);

/// Whom to ask for a token, and as whom.
#[derive(Clone, Copy)]
pub(super) struct TokenSource<'a> {
    pub(super) server: &'a TokenServer,
    pub(super) credentials: &'a ClientCredentials,
    /// The certificates of the endpoint's own that `server` shows and trusts.
    pub(super) tls: Option<[u8; 32]>,
}

/// What a token depends on. Endpoints that agree in all of it share their token.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    token_url: Url,
    client_id: String,
    scope: Option<String>,
    secret_hash: [u8; 32],
    tls: Option<[u8; 32]>,
}

#[derive(Clone)]
enum Held {
    Token(Token),
    Flight(Flight),
}

/// The fetch of a token that is under way.
type Flight = Shared<BoxFuture<'static, Result<Token, NoToken>>>;

#[derive(Clone)]
struct Token {
    /// The value of `Authorization`, marked sensitive.
    authorization: HeaderValue,
    usable_until: DateTime,
    /// Where the token server takes the credentials.
    placement: Placement,
}

impl Tokens {
    /// The value of `Authorization` for the credentials of `source` at `now`, but not the one that the endpoint has `refused`.
    ///
    /// The token that is held, if it lasts. Otherwise all attempts that want it wait for one fetch, each until its own
    /// `deadline`, the fetch itself until that of the attempt that began it.
    ///
    /// # Errors
    /// Why there is no token.
    pub(super) async fn authorization(
        &self,
        source: TokenSource<'_>,
        refused: Option<&HeaderValue>,
        now: DateTime,
        deadline: Instant,
    ) -> Result<HeaderValue, NoToken> {
        let token = match self.find(source, refused, now, deadline) {
            Held::Token(token) => token,
            Held::Flight(flight) => timeout_at(deadline, flight).await.map_err(|_| NoToken::Timeout)??,
        };
        Ok(token.authorization)
    }

    fn find(&self, source: TokenSource<'_>, refused: Option<&HeaderValue>, now: DateTime, deadline: Instant) -> Held {
        let key = Key::of(source);
        let mut all = self.0.lock();
        let placement = match all.get(&key) {
            Some(Held::Token(token)) if !token.serves(now, refused) => token.placement,
            Some(held) => return held.clone(),
            None => Placement::default(),
        };
        // Those of endpoints that were deleted or have other credentials by now go with the others that expired.
        all.retain(|_, held| held.lasts(now));
        let flight = Held::Flight(self.fetch(key.clone(), source, placement, now, deadline));
        all.insert(key, flight.clone());
        flight
    }

    fn fetch(
        &self,
        key: Key,
        source: TokenSource<'_>,
        placement: Placement,
        now: DateTime,
        deadline: Instant,
    ) -> Flight {
        let tokens = self.clone();
        let (server, credentials) = (source.server.clone(), source.credentials.clone());
        // A task of its own: it ends, and clears its entry, also when every attempt that waited for it was cut short.
        let task = tokio::spawn(async move {
            let fetch = server.fetch(&credentials, placement);
            let fetched = match timeout_at(deadline, fetch).await {
                Ok(fetched) => fetched.map(|granted| Token::new(granted, now)),
                Err(_) => Err(NoToken::Timeout),
            };
            tokens.land(key, &fetched);
            fetched
        });
        task.map(|ended| ended.unwrap_or_else(|error| Err(NoToken::Failed(error.to_string()))))
            .boxed()
            .shared()
    }

    /// A failure is not kept: the next attempt asks again.
    fn land(&self, key: Key, fetched: &Result<Token, NoToken>) {
        let mut all = self.0.lock();
        match fetched {
            Ok(token) => all.insert(key, Held::Token(token.clone())),
            Err(_) => all.remove(&key),
        };
    }
}

impl Key {
    fn of(source: TokenSource<'_>) -> Self {
        let credentials = source.credentials;
        Self {
            token_url: credentials.token_url.clone(),
            client_id: credentials.client_id.clone(),
            scope: credentials.scope.clone(),
            secret_hash: Sha256::digest(credentials.client_secret.expose_secret()).into(),
            tls: source.tls,
        }
    }
}

impl Held {
    fn lasts(&self, now: DateTime) -> bool {
        match self {
            Self::Token(token) => token.serves(now, None),
            Self::Flight(_) => true,
        }
    }
}

impl Token {
    /// `asked` is when the attempt began that wanted it.
    fn new((grant, placement): (Grant, Placement), asked: DateTime) -> Self {
        let usable = i64::try_from(grant.usable.as_millis()).unwrap_or(i64::MAX);
        Self {
            authorization: grant.authorization,
            usable_until: DateTime::from_millis(asked.timestamp_millis().saturating_add(usable)),
            placement,
        }
    }

    fn serves(&self, now: DateTime, refused: Option<&HeaderValue>) -> bool {
        now < self.usable_until && refused != Some(&self.authorization)
    }
}
