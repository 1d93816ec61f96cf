//! A token server that follows a script, a receiver that wants a token, and endpoints that tie them together.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bson::DateTime;
use certhookd::model::Outcome;
use certhookd::platform::{Auth, ClientCredentials, Endpoint};
use certhookd::sender::Client;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::sender::support;

pub(crate) const ID: &str = "the client: é";
pub(crate) const SECRET: &str = "s3cr3t: +/%";

/// A request as the token server got it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) form: HashMap<String, String>,
}

impl Asked {
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap())
    }
}

/// Gives `token-1`, `token-2` and so on, each good for an hour, once its script is over.
#[derive(Clone)]
pub(crate) struct TokenServer {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Arc<Mutex<VecDeque<(u16, String)>>>,
    given: Arc<Mutex<usize>>,
}

impl TokenServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
            script: Arc::default(),
            given: Arc::default(),
        };
        let app = Router::new().fallback(give).with_state(server.clone());
        tokio::spawn(axum::serve(listener, app).into_future());
        server
    }

    /// Answers the next requests so: status and body.
    pub(crate) fn answers<const N: usize>(&self, answers: [(u16, &str); N]) {
        self.script
            .lock()
            .extend(answers.map(|(status, body)| (status, body.to_owned())));
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().len()
    }

    fn next_token(&self) -> String {
        let mut given = self.given.lock();
        *given += 1;
        format!(r#"{{"access_token":"token-{given}","token_type":"bearer","expires_in":3600}}"#)
    }
}

async fn give(State(server): State<TokenServer>, headers: HeaderMap, body: String) -> Response {
    let form = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    server.asked.lock().push(Asked { headers, form });
    let scripted = server.script.lock().pop_front();
    let (status, body) = scripted.unwrap_or_else(|| (200, server.next_token()));
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

/// A token server that answers with these bytes and closes. Returns its URL.
pub(crate) async fn answering(answer: &str) -> String {
    let answer: Arc<str> = answer.into();
    support::server(move |stream, _| {
        let answer = Arc::clone(&answer);
        async move { one_answer(stream, &answer).await }
    })
    .await
}

/// Reads the token request of [`credentials`] and answers with these bytes.
pub(crate) async fn one_answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> io::Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"events%3Awrite") {
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Answers 401 unless the request carries the token that it accepts at the time; any token, to begin with.
#[derive(Clone)]
pub(crate) struct Receiver {
    url: String,
    accepted: Arc<Mutex<Option<String>>>,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            accepted: Arc::default(),
            tokens: Arc::default(),
        };
        let app = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(axum::serve(listener, app).into_future());
        receiver
    }

    pub(crate) fn accept(&self, token: &str) {
        *self.accepted.lock() = Some(token.to_owned());
    }

    /// The tokens of all requests, in order of arrival.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.tokens.lock().clone()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, _body: String) -> StatusCode {
    let authorization = headers.get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap());
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    receiver.tokens.lock().push(token.to_owned());
    match &*receiver.accepted.lock() {
        Some(accepted) if accepted != token => StatusCode::UNAUTHORIZED,
        _ => StatusCode::OK,
    }
}

pub(crate) fn credentials(token_url: &str) -> ClientCredentials {
    ClientCredentials {
        token_url: token_url.parse().unwrap(),
        client_id: ID.into(),
        client_secret: SECRET.into(),
        scope: Some("events:write".into()),
    }
}

/// An endpoint at the receiver that takes its tokens from there.
pub(crate) fn endpoint(receiver: &Receiver, token_url: &str) -> Endpoint {
    Endpoint {
        auth: Auth::OAuth2(credentials(token_url)),
        ..support::endpoint(receiver.url())
    }
}

/// A token server, a receiver, an endpoint and a client.
pub(crate) struct Fixture {
    pub(crate) server: TokenServer,
    pub(crate) receiver: Receiver,
    pub(crate) endpoint: Endpoint,
    pub(crate) client: Client,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let (server, receiver) = (TokenServer::start().await, Receiver::start().await);
        Self {
            endpoint: endpoint(&receiver, &server.url()),
            client: support::client(),
            server,
            receiver,
        }
    }

    pub(crate) async fn attempt(&self) -> Outcome {
        self.attempt_at(support::now()).await
    }

    pub(crate) async fn attempt_at(&self, now: DateTime) -> Outcome {
        self.client.attempt(&self.endpoint, &support::message(), now).await
    }

    /// Five attempts at once: the first runs until it waits, then the second, and so on, before any answer is read.
    pub(crate) async fn attempts(&self) -> Vec<Outcome> {
        futures_util::future::join_all((0..5).map(|_| self.attempt())).await
    }
}
