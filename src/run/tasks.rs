//! The daemon's tasks, in three groups by the order in which they stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Engine, certificates, control_number, episodes, loops, payloads, redrive, served_again, upkeep, waited};
use crate::config::Config;
use crate::failpoint;
use crate::model::EndpointKey;
use crate::service::systemd::Manager;
use crate::service::{Progress, Watchdog};
use crate::source::ScanTrigger;
use crate::store::{Stopped, with_progress};

/// The longest that a loop may make no progress. A failed operation counts as progress, outage or not.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// Time for the results of what was cut short at the end of the grace.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// A group of tasks; each says its name when it ends.
type Group = JoinSet<&'static str>;

/// All of them.
pub struct Tasks {
    engine: Arc<Engine>,
    watchdog: Watchdog,
    /// What finds work. Stops first: nothing is fetched that nobody sends any more.
    sources: Group,
    senders: Group,
    /// The heartbeat, the proof of life and the traces. Stop last: no endpoint is taken over while its results are being recorded.
    keepers: Group,
    stop: CancellationToken,
    drain: CancellationToken,
    end: CancellationToken,
    give_up: CancellationToken,
}

impl Tasks {
    /// All tasks of the daemon.
    pub(super) fn spawn(
        engine: &Arc<Engine>,
        config: &Config,
        trigger: &ScanTrigger,
        watchdog: &Watchdog,
        manager: &Manager,
        give_up: CancellationToken,
    ) -> Self {
        let mut tasks = Self::none(engine, watchdog.clone(), give_up);
        tasks.spawn_heartbeat();
        tasks.spawn_keepers(manager);
        tasks.spawn_exporter();
        tasks.spawn_senders();
        tasks.spawn_fetcher();
        tasks.spawn_streams(config);
        tasks.spawn_scans(config, trigger);
        tasks.spawn_upkeep(trigger);
        tasks
    }

    /// What a single scan needs: heartbeat, fetcher and senders. It is an instance like others meanwhile.
    pub fn for_one_scan(engine: &Arc<Engine>, give_up: CancellationToken) -> Self {
        let mut tasks = Self::none(engine, Watchdog::new(), give_up);
        tasks.spawn_heartbeat();
        tasks.spawn_exporter();
        tasks.spawn_senders();
        tasks.spawn_fetcher();
        tasks
    }

    fn none(engine: &Arc<Engine>, watchdog: Watchdog, give_up: CancellationToken) -> Self {
        Self {
            engine: Arc::clone(engine),
            watchdog,
            sources: Group::new(),
            senders: Group::new(),
            keepers: Group::new(),
            stop: CancellationToken::new(),
            drain: CancellationToken::new(),
            end: CancellationToken::new(),
            give_up,
        }
    }

    /// Waits for a task that ends although nobody asked it to.
    pub(super) async fn broken(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.sources.join_next() => ended,
            Some(ended) = self.senders.join_next() => ended,
            Some(ended) = self.keepers.join_next() => ended,
        };
        match ended {
            Ok(name) => anyhow::anyhow!("the {name} task ended by itself"),
            Err(panic) => anyhow::anyhow!("a task broke: {panic}"),
        }
    }

    /// Stops all in order. What is in flight has until `grace` has passed; then it is cut short, and waits for a MongoDB that is
    /// unavailable end too. What even then hangs in a MongoDB that does not answer is abandoned a second later.
    pub async fn shut_down(mut self, grace: Duration) {
        let give_up = self.give_up.clone();
        let deadline = tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            give_up.cancel();
        });
        // Abandoned with `self`: a driver's future may be dropped here, because nothing is asked of its connection any more.
        if tokio::time::timeout(grace + LAST_WRITES, self.in_order())
            .await
            .is_err()
        {
            warn!(
                "MongoDB did not respond in time: results that could not be recorded are sent again after the next start"
            );
        }
        deadline.abort();
    }

    async fn in_order(&mut self) {
        self.stop.cancel();
        join(&mut self.sources).await;
        // From now on the others take over what is not in flight here.
        self.engine.cluster.announce_leaving();
        self.drain.cancel();
        join(&mut self.senders).await;
        self.end.cancel();
        join(&mut self.keepers).await;
    }

    /// What stops first, by a token of its own.
    fn spawn_source<F>(&mut self, name: &'static str, task: impl FnOnce(Arc<Engine>, CancellationToken) -> F)
    where
        F: Future<Output: Ended> + Send + 'static,
    {
        let task = task(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named(name, task));
    }

    /// The same for a loop that reports progress, so that the watchdog sees it stall.
    fn spawn_watched<F>(
        &mut self,
        name: &'static str,
        task: impl FnOnce(Arc<Engine>, Arc<Progress>, CancellationToken) -> F,
    ) where
        F: Future<Output: Ended> + Send + 'static,
    {
        let progress = self.progress(name);
        self.spawn_source(name, |engine, stop| {
            alive(Arc::clone(&progress), task(engine, progress, stop))
        });
    }

    fn progress(&self, name: &'static str) -> Arc<Progress> {
        Arc::new(self.watchdog.register(name, failpoint::limit("allowance", ALLOWANCE)))
    }

    fn spawn_heartbeat(&mut self) {
        let progress = self.progress("heartbeat");
        let heartbeat = loops::heartbeat(Arc::clone(&self.engine), Arc::clone(&progress), self.end.clone());
        self.keepers.spawn(named("heartbeat", alive(progress, heartbeat)));
        let fence = loops::fence(Arc::clone(&self.engine), self.end.clone());
        self.keepers.spawn(named("fence", fence));
    }

    fn spawn_keepers(&mut self, manager: &Manager) {
        let status = loops::status(
            Arc::clone(&self.engine),
            manager.clone(),
            self.stop.clone(),
            self.end.clone(),
        );
        self.keepers.spawn(named("status", status));
        let (watchdog, manager, end) = (self.watchdog.clone(), manager.clone(), self.end.clone());
        self.keepers.spawn(named("watchdog", async move {
            watchdog.run(&manager, end.clone()).await;
            // Without a service manager it has nothing to do.
            end.cancelled().await;
        }));
    }

    fn spawn_exporter(&mut self) {
        if let Some(exporter) = self.engine.settings.tracer.exporter() {
            let exporter = exporter.run(self.end.clone());
            self.keepers.spawn(named("traces", exporter));
        }
    }

    fn spawn_senders(&mut self) {
        let (workers, recorder) = self.engine.senders();
        let workers = workers.run(self.drain.clone(), self.give_up.clone().cancelled_owned());
        self.senders.spawn(named("senders", workers));
        self.senders.spawn(named("recorder", recorder.run()));
    }

    /// The fetcher, and what is done with what it finds.
    fn spawn_fetcher(&mut self) {
        let (fetcher, off) = self.engine.fetcher();
        self.spawn_watched("fetcher", |_, progress, stop| {
            fetcher.run(stop, move || progress.report())
        });
        self.spawn_source("cancellations", |engine, stop| upkeep::cancel(engine, off, stop));
        self.spawn_source("indexes", upkeep::keep_indexes);
        self.spawn_source("control", control_number::follow);
        self.spawn_source("proxy outages", loops::proxy_outages);
        self.spawn_source("failed commits", loops::failed_commits);
        self.spawn_source("payloads", payloads::drop_payloads);
        self.spawn_source("endpoints that are served again", served_again::move_to_background);
        self.spawn_source("endpoint states", |engine, stop| {
            let cluster = engine.cluster.clone();
            let is_mine = move |endpoint: &EndpointKey| cluster.may_begin(endpoint);
            engine.endpoint_states.clone().run(is_mine, stop)
        });
        self.spawn_source("episodes", episodes::keep);
        self.spawn_watched("wake-ups", loops::wake_ups);
        self.spawn_source("notes", |engine, stop| {
            engine.wake_ups.clone().write(engine.cluster.clone(), stop)
        });
    }

    fn spawn_streams(&mut self, config: &Config) {
        self.spawn_watched("endpoints", |engine, progress, stop| {
            engine.refresh().run(stop, move || progress.report())
        });
        if config.completions.enabled {
            self.spawn_watched("change stream", loops::watch);
        }
        self.spawn_source("changed endpoints", loops::changed_endpoints);
    }

    fn spawn_scans(&mut self, config: &Config, trigger: &ScanTrigger) {
        let ticked = trigger.clone();
        self.spawn_source("schedule", |engine, stop| loops::schedule(engine, ticked, stop));
        let is_holder = self.engine.cluster.lease().borrow().is_some();
        if self.engine.settings.scan.get().on_start && is_holder {
            trigger.ask();
        }
        let streaming = config.completions.enabled;
        self.spawn_source("next expiry", |engine, stop| {
            engine.lookahead(streaming).run(trigger.clone(), stop)
        });
        self.spawn_source("scan", |engine, stop| loops::scans(engine, trigger.clone(), stop));
    }

    fn spawn_upkeep(&mut self, trigger: &ScanTrigger) {
        self.spawn_source("certificates", certificates::tell_of_certificates);
        self.spawn_source("redrive", redrive::redrive);
        self.spawn_source("end of waiting", waited::end_waiting);
        self.spawn_watched("operations", |engine, progress, stop| {
            engine.executor().run(stop, move || progress.report())
        });
        self.spawn_source("lease", |engine, stop| loops::lease(engine, trigger.clone(), stop));
    }
}

/// How a task ends that was asked to: any error but [`Stopped`] would go unseen.
trait Ended {}

impl Ended for () {}

impl Ended for Result<(), Stopped> {}

/// A loop each of whose failed operations counts as progress.
async fn alive<F: Future>(progress: Arc<Progress>, work: F) -> F::Output {
    with_progress(move || progress.report(), work).await
}

async fn named(name: &'static str, task: impl Future<Output: Ended>) -> &'static str {
    task.await;
    name
}

async fn join(group: &mut Group) {
    while let Some(ended) = group.join_next().await {
        if let Err(panic) = ended {
            error!(%panic, "a task broke while the daemon stopped");
        }
    }
}
