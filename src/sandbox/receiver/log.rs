//! What a receiver got, and the wait for more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bson::DateTime;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout_at;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its body was complete, by this machine's clock.
    pub at: DateTime,
    /// The same, to measure durations with.
    pub instant: Instant,
    /// Where it came from: the port identifies the connection, and so the process.
    pub peer: SocketAddr,
    /// The path, which identifies the endpoint.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The status of its response, which may be sent later; `None`: never.
    pub status: Option<StatusCode>,
    /// When it ended.
    pub end: End,
}

/// When a request ended, once it has.
#[derive(Clone, Debug, Default)]
pub struct End(Arc<OnceLock<Ended>>);

/// The end of a request.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// When its response was ready, or when it was noticed that the sender had broken the request off.
    pub at: Instant,
    /// Whether it was broken off.
    pub broken_off: bool,
}

impl End {
    pub(super) fn set(&self, broken_off: bool) {
        let at = Instant::now();
        let _ = self.0.set(Ended { at, broken_off });
    }

    /// The end; `None` while the request is open.
    pub fn get(&self) -> Option<Ended> {
        self.0.get().copied()
    }
}

impl Received {
    /// A header's value; empty if it is absent or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Log {
    /// `None`: requests are only counted.
    requests: Option<Mutex<Vec<Received>>>,
    total: AtomicUsize,
    grown: Notify,
}

impl Log {
    pub(super) fn keeping() -> Self {
        Self {
            requests: Some(Mutex::default()),
            total: AtomicUsize::new(0),
            grown: Notify::new(),
        }
    }

    pub(super) fn counting() -> Self {
        Self {
            requests: None,
            ..Self::keeping()
        }
    }

    pub(super) fn add(&self, request: impl FnOnce() -> Received) {
        if let Some(requests) = &self.requests {
            requests.lock().push(request());
        }
        self.total.fetch_add(1, Ordering::Release);
        self.grown.notify_waiters();
    }

    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    pub(super) fn requests(&self) -> Vec<Received> {
        self.requests
            .as_ref()
            .map(|requests| requests.lock().clone())
            .unwrap_or_default()
    }

    /// A copy of all requests, if they are `enough`.
    pub(super) fn filter(&self, enough: impl Fn(&[Received]) -> bool) -> Option<Vec<Received>> {
        let requests = self.requests.as_ref()?.lock();
        enough(&requests).then(|| requests.clone())
    }

    /// Asks `look` now and after every request, until it has found something.
    pub(super) async fn wait_for<T>(&self, look: impl Fn(&Self) -> Option<T>, limit: Duration) -> Result<T> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            // Registered before looking, so that no request slips in between.
            let grown = self.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if timeout_at(deadline, grown).await.is_err() {
                bail!("not within {limit:?}: {} requests came{}", self.total(), self.summary());
            }
        }
    }

    /// The paths of the requests and how often each was asked, for the message of a failed wait.
    fn summary(&self) -> String {
        let mut paths = std::collections::BTreeMap::<String, usize>::new();
        for request in self.requests() {
            *paths.entry(request.path).or_default() += 1;
        }
        paths
            .into_iter()
            .map(|(path, count)| format!(", {count} to {path}"))
            .collect()
    }
}
