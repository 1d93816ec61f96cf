//! `certhookd run`: start in order, handle signals, stop in order.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::{Engine, Running, report};
use crate::config::{Config, Faults, Service, restart_needed};
use crate::service::signals::{Signal, Signals};
use crate::source::ScanTrigger;

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
    let started = Running::start(&config, &options.host, signals.stopped()).await?;
    let Some(mut running) = started else {
        return Ok(());
    };
    let mut daemon = Daemon {
        engine: Arc::clone(&running.engine),
        trigger: running.trigger.clone(),
        reports: JoinSet::new(),
        options,
        config,
    };
    let ended = tokio::select! {
        () = daemon.handle(&mut signals) => Ok(()),
        broken = running.broken() => Err(broken),
    };
    let grace = daemon.config.service.shutdown_grace;
    drop(daemon);
    running.stop(grace).await;
    ended
}

struct Daemon {
    options: Options,
    config: Config,
    engine: Arc<Engine>,
    trigger: ScanTrigger,
    /// While MongoDB is unavailable a report waits for it; signals must not.
    reports: JoinSet<()>,
}

impl Daemon {
    /// Answers signals until one says stop.
    async fn handle(&mut self, signals: &mut Signals) {
        loop {
            match signals.next().await {
                Signal::Scan => self.trigger.ask_for_operator(),
                Signal::Report => self.report(),
                Signal::Reload => self.reload(),
                Signal::Stop => return,
            }
        }
    }

    fn report(&mut self) {
        let engine = Arc::clone(&self.engine);
        self.reports.spawn(async move { report::log(&engine).await });
        while self.reports.try_join_next().is_some() {}
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
        match self.engine.settings.replace(
            &config,
            &self.engine.queue,
            &self.engine.directory,
            &self.engine.episodes,
        ) {
            Ok(()) => info!(file, "configuration reloaded"),
            Err(error) => {
                error!(%error, "reload refused, the configuration stays as it was");
                return;
            }
        }
        // What needs a restart is compared with what runs.
        let running = std::mem::replace(&mut self.config, config);
        self.config.mongodb = running.mongodb;
        self.config.completions = running.completions;
        self.config.delivery.retention = running.delivery.retention;
        // All but the grace.
        self.config.service = Service {
            shutdown_grace: self.config.service.shutdown_grace,
            ..running.service
        };
        self.config.operations = running.operations;
        self.config.telemetry = running.telemetry;
        self.engine.settings.config.set(self.config.clone());
    }
}
