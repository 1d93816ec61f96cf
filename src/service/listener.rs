//! The daemon's own HTTP server, for its page, metrics and health.
//!
//! Whoever can reach it may open connections and say nothing, so all is bounded: the connections, the time that each of them has to
//! ask, and the time until it has its response. Each is for one request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::middleware::from_fn_with_state;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;
use tracing::{info, warn};

use super::host::{AllowedHosts, refuse_names};

/// How long responses under way may take when the daemon ends.
const CLOSING: Duration = Duration::from_secs(1);

/// Open at once; a scraper, a few browsers and a health check need ten.
const CONNECTIONS: usize = 64;

/// From the connection to the end of the request's head.
const HEAD: Duration = Duration::from_secs(5);

/// From the connection to its end. Prometheus waits 10 s for a response.
const LIFETIME: Duration = Duration::from_secs(15);

/// The response to a longer head is 431.
const HEAD_BYTES: usize = 16 << 10;

/// Between two attempts to accept a connection when the process or the machine is out of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// A listener at work; dropped, it is closed.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    serving: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

impl Listener {
    /// Serves `router` on `service.metrics_listen`; on a loopback address to this machine alone, browsers that a foreign page has
    /// led there not included unless under one of `allowed_hosts`.
    ///
    /// # Errors
    /// The address can't be listened on, e.g. because another process does.
    pub async fn start(address: SocketAddr, allowed_hosts: &[String], router: Router) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("service.metrics_listen: can't listen on {address}; give each daemon on a machine an address of its own, or \"\" for none")
        })?;
        let local = listener.local_addr()?;
        info!(address = %local, "serving metrics, health and status");
        let router = match address.ip().is_loopback() {
            true => router.layer(from_fn_with_state(AllowedHosts::new(allowed_hosts), refuse_names)),
            false => router,
        };
        let stop = CancellationToken::new();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, router, stop.clone())));
        Ok(Self {
            address: local,
            serving,
            stop,
        })
    }

    /// Where it listens, with the port that it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes it once the responses under way are sent, or after a second.
    pub async fn close(self) {
        self.stop.cancel();
        let _ = timeout(CLOSING, self.serving).await;
    }
}

/// Accepts until `stop`, then finishes the responses under way.
async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut connections = Connections::default();
    let accepting = async {
        loop {
            let stream = tokio::select! {
                Some(_) = connections.tasks.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        warn!(%error, "a connection for metrics, health or status can't be accepted");
                        sleep(ACCEPT_AGAIN).await;
                        continue;
                    }
                },
            };
            connections.make_room().await;
            connections.begin(stream, router.clone());
        }
    };
    let _: Option<()> = stop.run_until_cancelled(accepting).await;
    drop(listener);
    connections.finish().await;
}

/// The open connections, at most [`CONNECTIONS`].
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The earliest first; some of them may have ended.
    opened: Vec<Connection>,
}

struct Connection {
    task: AbortHandle,
    /// Whether it has sent the whole head of its request.
    has_asked: Arc<AtomicBool>,
}

impl Connections {
    /// Where all are taken, the earliest that has not asked yet gives way. If all have asked, waits for the first response to end.
    async fn make_room(&mut self) {
        while self.tasks.len() >= CONNECTIONS {
            if let Some(silent) = self.opened.iter().find(|connection| connection.is_silent()) {
                silent.task.abort();
            }
            self.tasks.join_next().await;
        }
        self.opened.retain(|connection| !connection.task.is_finished());
    }

    fn begin(&mut self, stream: TcpStream, router: Router) {
        let has_asked = Arc::<AtomicBool>::default();
        let task = self.tasks.spawn(converse(stream, router, Arc::clone(&has_asked)));
        self.opened.push(Connection { task, has_asked });
    }

    /// Ends those that have not asked, and waits for the others.
    async fn finish(mut self) {
        let silent = self.opened.iter().filter(|connection| connection.is_silent());
        silent.for_each(|connection| connection.task.abort());
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Connection {
    fn is_silent(&self) -> bool {
        !self.task.is_finished() && !self.has_asked.load(Ordering::Relaxed)
    }
}

/// Reads one request and sends the response. What goes wrong is the client's affair.
async fn converse(stream: TcpStream, router: Router, has_asked: Arc<AtomicBool>) {
    let respond = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        router.clone().oneshot(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false);
    let _ = timeout(LIFETIME, http.serve_connection(TokioIo::new(stream), respond)).await;
}
