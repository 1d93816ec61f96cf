//! The daemon's own address, on which it tells how it stands.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::middleware::from_fn;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info};

use super::host::refuse_names;

/// How long answers under way may take when the daemon ends.
const CLOSING: Duration = Duration::from_secs(1);

/// A listener at work; dropped, it is closed.
#[derive(Debug)]
pub struct Listener {
    serving: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

impl Listener {
    /// Serves `router` on `service.metrics_listen`; on a loopback address to this machine alone, browsers that a foreign page has
    /// led there not included.
    ///
    /// # Errors
    /// The address can't be listened on, e.g. because another process does.
    pub async fn start(address: SocketAddr, router: Router) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("service.metrics_listen: can't listen on {address}; give each daemon on a machine an address of its own, or \"\" for none")
        })?;
        info!(address = %listener.local_addr()?, "serving metrics, health and status");
        let router = match address.ip().is_loopback() {
            true => router.layer(from_fn(refuse_names)),
            false => router,
        };
        let stop = CancellationToken::new();
        let serve = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = serve.await {
                error!(%error, "metrics, health and status are served no more; deliveries go on");
            }
        }));
        Ok(Self { serving, stop })
    }

    /// Closes it once the answers under way are sent, or after a second.
    pub async fn close(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(CLOSING, self.serving).await;
    }
}
