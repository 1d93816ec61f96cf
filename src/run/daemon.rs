//! `certhookd run`: start in order, answer signals, stop in order.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::tasks::Tasks;
use super::{Engine, Settings, Snapshot, connect};
use crate::config::{Config, Faults, restart_needed};
use crate::service::Watchdog;
use crate::service::signals::{Signal, Signals};
use crate::service::systemd::Manager;
use crate::source::ScanBell;
use crate::store::Stopped;

/// How the daemon is run.
pub struct Options {
    /// Reads the configuration: at the start, and again on SIGHUP.
    pub load: Box<dyn Fn() -> Result<Config, Faults> + Send + Sync>,
    /// Where it is read from, for the log.
    pub file: Option<PathBuf>,
    /// This machine's name.
    pub host: String,
}

/// Runs the daemon until a signal stops it.
///
/// # Errors
/// A configuration that makes no sense, a database that refuses us, or a task that broke.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let config = (options.load)()?;
    let manager = Manager::from_env();
    let settings = Settings::new(&config)?;
    let (stop, give_up) = (CancellationToken::new(), CancellationToken::new());
    let store = tokio::select! {
        store = connect(&config, &manager, &stop, give_up.clone()) => store?,
        () = stopped(&mut signals) => return Ok(()),
    };
    let (engine, wanted) = Engine::new(store.clone(), &config, settings, &options.host);
    let prepared = tokio::select! {
        prepared = prepare(&engine, &config) => prepared.is_ok(),
        () = stopped(&mut signals) => false,
    };
    if !prepared {
        store.close().await;
        return Ok(());
    }
    let (bell, watchdog) = (ScanBell::default(), Watchdog::new());
    let mut tasks = Tasks::spawn(&engine, wanted, &config, &bell, &watchdog, &manager, give_up);
    manager.ready();
    info!(daemon = %engine.cluster.me(), version = env!("CARGO_PKG_VERSION"), "ready");
    let mut daemon = Daemon {
        options,
        config,
        engine,
        bell,
    };
    let ended = tokio::select! {
        () = daemon.answer(&mut signals) => Ok(()),
        broken = tasks.broken() => Err(broken),
    };
    let grace = daemon.config.service.shutdown_grace;
    info!(
        grace_s = grace.as_secs(),
        "stopping: no more work is taken, what is in flight finishes"
    );
    manager.stopping();
    tasks.shut_down(grace).await;
    let _ = daemon.engine.cluster.leave().await;
    info!(
        delivered = daemon.engine.tally.delivered(),
        "stopped; what is left stays in the outbox"
    );
    drop(daemon);
    store.close().await;
    ended
}

async fn prepare(engine: &Engine, config: &Config) -> Result<(), Stopped> {
    engine.prepare().await?;
    if config.completions.enabled {
        engine.watch().begin().await
    } else {
        Ok(())
    }
}

async fn stopped(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

struct Daemon {
    options: Options,
    config: Config,
    engine: std::sync::Arc<Engine>,
    bell: ScanBell,
}

impl Daemon {
    /// Answers signals until one says stop.
    async fn answer(&mut self, signals: &mut Signals) {
        loop {
            match signals.next().await {
                Signal::Scan => self.bell.ring(),
                Signal::Report => Snapshot::take(&self.engine).log(&self.engine).await,
                Signal::Reload => self.reload(),
                Signal::Stop => return,
            }
        }
    }

    /// A file that makes no sense is refused and changes nothing.
    fn reload(&mut self) {
        let file = self.options.file.as_deref().map(|file| file.display().to_string());
        let config = match (self.options.load)() {
            Ok(config) => config,
            Err(faults) => {
                for fault in faults.iter() {
                    error!(file, "reload refused, the configuration stays as it was: {fault}");
                }
                return;
            }
        };
        for key in restart_needed(&self.config, &config) {
            warn!(key, "this key has changed and takes effect after a restart");
        }
        match self.engine.settings.replace(&config, &self.engine.window) {
            Ok(()) => info!(file, "configuration reloaded"),
            Err(error) => error!(%error, "reload refused, the configuration stays as it was"),
        }
        // What needs a restart is compared with what runs.
        let running = std::mem::replace(&mut self.config, config);
        self.config.mongodb = running.mongodb;
        self.config.completions = running.completions;
        self.config.queue = running.queue;
        self.config.service.metrics_listen = running.service.metrics_listen;
    }
}
