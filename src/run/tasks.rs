//! The daemon's tasks, in three groups by the order in which they stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Engine, loops};
use crate::config::Config;
use crate::failpoint;
use crate::model::EndpointKey;
use crate::service::systemd::Manager;
use crate::service::{Progress, Watchdog};
use crate::source::{ScanTrigger, Timer};
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

    /// What a single scan needs: heartbeat, fetcher and senders.
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
        self.senders.spawn(fallible("recorder", recorder.run()));
    }

    fn spawn_fetcher(&mut self) {
        let progress = self.progress("fetcher");
        let (fetcher, off) = self.engine.fetcher();
        let reported = Arc::clone(&progress);
        let fetcher = fetcher.run(self.stop.clone(), move || reported.report());
        self.sources.spawn(named("fetcher", alive(progress, fetcher)));
        let cancel = super::upkeep::cancel(Arc::clone(&self.engine), off, self.stop.clone());
        self.sources.spawn(fallible("cancellations", cancel));
        let indexes = super::upkeep::keep_indexes(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(fallible("indexes", indexes));
        let control = super::control_number::follow(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(fallible("control", control));
        let outages = loops::proxy_outages(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("proxy outages", outages));
        let payloads = super::payloads::drop_payloads(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("payloads", payloads));
        let released = super::released::move_to_background(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("released endpoints", released));
        let cluster = self.engine.cluster.clone();
        let is_mine = move |endpoint: &EndpointKey| cluster.may_begin(endpoint);
        let states = self.engine.endpoint_states.clone().run(is_mine, self.stop.clone());
        self.sources.spawn(fallible("endpoint states", states));
        let episodes = super::episodes::keep(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("episodes", episodes));
    }

    fn spawn_streams(&mut self, config: &Config) {
        let progress = self.progress("endpoints");
        let reported = Arc::clone(&progress);
        let refresh = self.engine.refresh().run(self.stop.clone(), move || reported.report());
        self.sources.spawn(fallible("endpoints", alive(progress, refresh)));
        if config.completions.enabled {
            let progress = self.progress("change stream");
            let watch = loops::watch(Arc::clone(&self.engine), Arc::clone(&progress), self.stop.clone());
            self.sources.spawn(fallible("change stream", alive(progress, watch)));
        }
        let progress = self.progress("wake-ups");
        let wake_ups = loops::wake_ups(Arc::clone(&self.engine), Arc::clone(&progress), self.stop.clone());
        self.sources.spawn(named("wake-ups", alive(progress, wake_ups)));
        let changed = loops::changed_endpoints(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("changed endpoints", changed));
        let notes = self.engine.wake_ups.clone();
        let notes = notes.write(self.engine.cluster.clone(), self.stop.clone());
        self.sources.spawn(named("notes", notes));
    }

    fn spawn_scans(&mut self, config: &Config, trigger: &ScanTrigger) {
        let (engine, settings) = (Arc::clone(&self.engine), self.engine.settings.clone());
        let (lease, ticked) = (engine.cluster.lease(), trigger.clone());
        let tick = move || {
            if lease.borrow().is_some() {
                ticked.ask();
            }
        };
        let timer = Timer {
            schedule: settings.schedule.clone(),
            changed: Arc::clone(&settings.schedule_changed),
            clock: engine.clock.clone(),
        };
        let schedule = timer.run(tick, self.stop.clone());
        self.sources.spawn(named("schedule", async move {
            if let Err(error) = schedule.await {
                error!(%error, "the scan's schedule can't run");
            }
        }));
        if settings.scan.get().on_start && engine.cluster.lease().borrow().is_some() {
            trigger.ask();
        }
        let lookahead = engine.lookahead(config.completions.enabled);
        let lookahead = lookahead.run(trigger.clone(), self.stop.clone());
        self.sources.spawn(fallible("next expiry", lookahead));
        let scans = loops::scans(Arc::clone(&engine), trigger.clone(), self.stop.clone());
        self.sources.spawn(fallible("scan", scans));
    }

    fn spawn_upkeep(&mut self, trigger: &ScanTrigger) {
        let certificates = super::certificates::tell_of_certificates(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("certificates", certificates));
        let redrive = super::redrive::redrive(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("redrive", redrive));
        let waited = super::waited::end_waiting(Arc::clone(&self.engine), self.stop.clone());
        self.sources.spawn(named("end of waiting", waited));
        let progress = self.progress("operations");
        let reported = Arc::clone(&progress);
        let operations = self.engine.executor().run(self.stop.clone(), move || reported.report());
        self.sources.spawn(named("operations", alive(progress, operations)));
        let lease = loops::lease(Arc::clone(&self.engine), trigger.clone(), self.stop.clone());
        self.sources.spawn(named("lease", lease));
    }
}

/// A loop each of whose failed operations counts as progress.
async fn alive<F: Future>(progress: Arc<Progress>, work: F) -> F::Output {
    with_progress(move || progress.report(), work).await
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// A task that says [`Stopped`] was asked to end.
async fn fallible(name: &'static str, task: impl Future<Output = Result<(), Stopped>>) -> &'static str {
    let _ = task.await;
    name
}

async fn join(group: &mut Group) {
    while let Some(ended) = group.join_next().await {
        if let Err(panic) = ended {
            report(&panic);
        }
    }
}

fn report(panic: &JoinError) {
    error!(%panic, "a task broke while the daemon stopped");
}
