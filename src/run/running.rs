//! A daemon at work: started in order, stopped in order. When it stops is decided by its caller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::tasks::Tasks;
use super::web::{Stage, serve};
use super::{Engine, Settings, connect};
use crate::config::Config;
use crate::service::systemd::Manager;
use crate::service::{Listener, Watchdog};
use crate::source::ScanTrigger;
use crate::store::{Stopped, Store};

/// How long MongoDB is waited for to record that this instance leaves; if it does not, the others learn it from missing heartbeats.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// [`Running::stop`] must end it.
pub struct Running {
    pub engine: Arc<Engine>,
    /// Asks for a scan.
    pub trigger: ScanTrigger,
    tasks: Tasks,
    manager: Manager,
    store: Store,
    stage: Stage,
    listener: Option<Listener>,
}

impl Running {
    /// Waits for MongoDB, prepares it, and starts everything. `None`: `stopped` came first.
    ///
    /// # Errors
    /// [`super::Misconfigured`] for what waiting can't change; an address that can't be listened on.
    pub async fn start(config: &Config, host: &str, stopped: impl Future<Output = ()>) -> anyhow::Result<Option<Self>> {
        tokio::pin!(stopped);
        let manager = Manager::from_env();
        let settings = Settings::new(config)?;
        let stage = Stage::default();
        let listener = serve(&config.service, &stage).await?;
        let stop = CancellationToken::new();
        let give_up = CancellationToken::new();
        let store = tokio::select! {
            store = connect(config, &manager, &stop, give_up.clone()) => store?,
            () = &mut stopped => return Ok(None),
        };
        let engine = Engine::new(store.clone(), config, settings, host);
        let prepared = tokio::select! {
            prepared = prepare(&engine, config) => prepared.is_ok(),
            () = &mut stopped => false,
        };
        if !prepared {
            store.close().await;
            return Ok(None);
        }
        let trigger = ScanTrigger::default();
        let watchdog = Watchdog::new();
        stage.working(&engine, &watchdog);
        let tasks = Tasks::spawn(&engine, config, &trigger, &watchdog, &manager, give_up);
        let running = Self {
            engine,
            trigger,
            tasks,
            manager,
            store,
            stage,
            listener,
        };
        running.until_ready(stopped, config.service.shutdown_grace).await
    }

    /// Stops if it is not ready before `stopped`, or if a task breaks.
    async fn until_ready(mut self, stopped: impl Future<Output = ()>, grace: Duration) -> anyhow::Result<Option<Self>> {
        let ended = tokio::select! {
            () = self.engine.directory.followed() => {
                self.manager.ready();
                self.stage.ready();
                info!(instance_id = %self.engine.cluster.instance_id(), version = env!("CARGO_PKG_VERSION"), "ready");
                return Ok(Some(self));
            }
            () = stopped => Ok(None),
            broken = self.tasks.broken() => Err(broken),
        };
        self.stop(grace).await;
        ended
    }

    /// Where the status page is, if it is anywhere.
    pub fn page(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::address)
    }

    /// Waits for a task that ends although it was not stopped.
    pub async fn broken(&mut self) -> anyhow::Error {
        self.tasks.broken().await
    }

    /// Stops all in order; what is in flight has until `grace` has passed.
    pub async fn stop(self, grace: Duration) {
        // Before it is logged: whoever reads the line finds it in `/readyz`.
        self.stage.stopping();
        info!(
            grace_s = grace.as_secs(),
            "stopping: no more work is taken, what is in flight finishes"
        );
        self.manager.stopping();
        self.tasks.shut_down(grace).await;
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.engine.cluster.leave()).await;
        info!(
            delivered = self.engine.tally.counts.delivered(),
            "stopped; what is left stays in the outbox"
        );
        self.stage.stopped();
        if let Some(listener) = self.listener {
            listener.close().await;
        }
        drop(self.engine);
        self.store.close().await;
    }
}

async fn prepare(engine: &Engine, config: &Config) -> Result<(), Stopped> {
    engine.prepare().await?;
    if config.completions.enabled {
        let lease = *engine.cluster.lease().borrow();
        engine.watch().begin(lease).await
    } else {
        Ok(())
    }
}
