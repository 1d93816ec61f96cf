//! What a receiver responds with.

use std::future::pending;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response as HttpResponse;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// One response: a status, after a delay, with headers and a body; or silence.
#[derive(Clone, Debug)]
pub struct Response {
    /// `None`: the request is read, and there is never a response.
    status: Option<StatusCode>,
    delay: Duration,
    headers: HeaderMap,
    body: &'static str,
}

impl Response {
    /// 200 at once.
    pub fn ok() -> Self {
        Self::status(StatusCode::OK)
    }

    /// That status at once.
    pub fn status(status: StatusCode) -> Self {
        Self {
            status: Some(status),
            delay: Duration::ZERO,
            headers: HeaderMap::new(),
            body: "",
        }
    }

    /// None: the request is read, the connection stays open, and nothing comes.
    pub fn silence() -> Self {
        Self {
            status: None,
            ..Self::ok()
        }
    }

    /// The script of an endpoint that fails `times` times and then recovers.
    pub fn failing(times: usize, status: StatusCode) -> Vec<Self> {
        let mut responses = vec![Self::status(status); times];
        responses.push(Self::ok());
        responses
    }

    /// The same, after a delay.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The same, with a header more.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The same, with that body.
    #[must_use]
    pub fn body(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    /// The status that the sender gets, if it waits for it.
    pub(super) fn planned_status(&self) -> Option<StatusCode> {
        self.status
    }

    pub(super) async fn give(self) -> HttpResponse {
        let Some(status) = self.status else {
            return pending().await;
        };
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let mut response = HttpResponse::new(Body::from(self.body));
        *response.status_mut() = status;
        *response.headers_mut() = self.headers;
        response
    }
}
