//! A webhook endpoint on 127.0.0.1 that keeps what it gets and responds by a script.

mod log;
mod response;
mod route;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::Response as HttpResponse;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::model::Clock;
use log::Log;
use route::Routes;

pub use log::{End, Ended, Received};
pub use response::Response;

/// The endpoint. It runs on a thread of its own, so that no runtime is shared with what is tested, and answers any path;
/// dropping it cuts every connection.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// `Some` until dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    log: Log,
    routes: Routes,
}

impl Receiver {
    /// Starts one that keeps every request.
    pub fn start() -> Result<Self> {
        Self::serve(Log::keeping())
    }

    /// Starts one that counts requests and forgets them: for benches.
    pub fn counting() -> Result<Self> {
        Self::serve(Log::counting())
    }

    fn serve(log: Log) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("receiver")
            .enable_all()
            .build();
        let runtime = runtime.context("cannot start the receiver's thread")?;
        let shared = Arc::new(Shared {
            log,
            routes: Routes::default(),
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port for a receiver")?;
        listener
            .set_nonblocking(true)
            .context("cannot set up the receiver's socket")?;
        let address = listener.local_addr().context("the receiver has no address")?;
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener).context("cannot set up the receiver's socket")?;
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async move { axum::serve(listener, service).await });
        drop(_entered);
        Ok(Self {
            address,
            shared,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on requests to `path` get these responses in turn, and the last of them for ever. Without any: 200.
    pub fn script(&self, path: &str, responses: impl IntoIterator<Item = Response>) {
        self.shared.routes.at(path).script(responses.into_iter().collect());
    }

    /// Everything received so far, in order of arrival.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.log.requests()
    }

    /// How many requests came to `path`.
    pub fn count(&self, path: &str) -> usize {
        self.shared.routes.at(path).count()
    }

    /// How many requests came in all.
    pub fn total(&self) -> usize {
        self.shared.log.total()
    }

    /// The most requests to `path` that were ever open at once.
    pub fn max_parallel(&self, path: &str) -> usize {
        self.shared.routes.at(path).max_parallel()
    }

    /// Waits until what was received is `enough`, and returns it. Fails after `limit`, with what came instead.
    pub async fn wait_for(&self, enough: impl Fn(&[Received]) -> bool, limit: Duration) -> Result<Vec<Received>> {
        self.shared.log.wait_for(|log| log.filter(&enough), limit).await
    }

    /// Waits until `total` requests came in all. Fails after `limit`.
    pub async fn wait_for_total(&self, total: usize, limit: Duration) -> Result<()> {
        self.shared
            .log
            .wait_for(|log| (log.total() >= total).then_some(()), limit)
            .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Keeps one request, and responds. The request is kept when its body is complete, before any delay.
async fn receive(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let route = shared.routes.at(parts.uri.path());
    let present = route.enter();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return refusal();
    };
    let scripted = route.next_response();
    shared.log.add(|| Received {
        at: Clock::local(),
        instant: std::time::Instant::now(),
        peer,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body,
        status: scripted.planned_status(),
        end: present.end.clone(),
    });
    let response = scripted.give().await;
    present.end.set(false);
    response
}

/// For a sender that broke off: nobody reads it.
fn refusal() -> HttpResponse {
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}
