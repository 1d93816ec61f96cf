//! The daemon's tasks, in three groups by the order in which they stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Engine, Wanted, loops};
use crate::config::Config;
use crate::service::Watchdog;
use crate::service::systemd::Manager;
use crate::source::{ScanBell, Schedule};
use crate::store::Stopped;

/// A loop counts as moving when its try has failed; no try takes longer than this, outage or not.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// Time for the results of what was cut short at the end of the grace.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// A group of tasks; each says its name when it ends.
type Group = JoinSet<&'static str>;

/// All of them.
pub struct Tasks {
    /// What finds work. Stops first: nothing is claimed that nobody sends any more.
    sources: Group,
    /// What sends, writes results and counts them.
    senders: Group,
    /// The heartbeat, the proof of life and the traces. Stop last: no claim is taken over while its result is being written.
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
        wanted: Wanted,
        config: &Config,
        bell: &ScanBell,
        watchdog: &Watchdog,
        manager: &Manager,
        give_up: CancellationToken,
    ) -> Self {
        let mut tasks = Self::none(give_up);
        tasks.spawn_keepers(engine, watchdog, manager);
        tasks.spawn_exporter(engine);
        tasks.spawn_senders(engine, wanted);
        tasks.spawn_feeder(engine, watchdog);
        tasks.spawn_streams(engine, config, watchdog);
        tasks.spawn_scans(engine, config, bell);
        tasks.spawn_upkeep(engine, bell);
        tasks
    }

    /// What a single scan needs: heartbeat, feeder and senders.
    pub fn for_one_scan(engine: &Arc<Engine>, wanted: Wanted, give_up: CancellationToken) -> Self {
        let (mut tasks, watchdog) = (Self::none(give_up), Watchdog::new());
        let pulse = watchdog.register("heartbeat", ALLOWANCE);
        let heartbeat = loops::heartbeat(Arc::clone(engine), pulse, tasks.end.clone());
        tasks.keepers.spawn(named("heartbeat", heartbeat));
        tasks.spawn_exporter(engine);
        tasks.spawn_senders(engine, wanted);
        tasks.spawn_feeder(engine, &watchdog);
        tasks
    }

    fn none(give_up: CancellationToken) -> Self {
        Self {
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

    /// Stops all in order. What is in flight has until `grace` has passed; then it is cut short, and waits for a database that is
    /// away end too. What even then hangs in a database that does not answer is abandoned a second later.
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
                "MongoDB did not answer in time: results that could not be written are sent again after the next start"
            );
        }
        deadline.abort();
    }

    async fn in_order(&mut self) {
        self.stop.cancel();
        join(&mut self.sources).await;
        self.drain.cancel();
        join(&mut self.senders).await;
        self.end.cancel();
        join(&mut self.keepers).await;
    }

    fn spawn_keepers(&mut self, engine: &Arc<Engine>, watchdog: &Watchdog, manager: &Manager) {
        let pulse = watchdog.register("heartbeat", ALLOWANCE);
        let heartbeat = loops::heartbeat(Arc::clone(engine), pulse, self.end.clone());
        self.keepers.spawn(named("heartbeat", heartbeat));
        let status = loops::status(Arc::clone(engine), manager.clone(), self.stop.clone(), self.end.clone());
        self.keepers.spawn(named("status", status));
        let (watchdog, manager, end) = (watchdog.clone(), manager.clone(), self.end.clone());
        self.keepers.spawn(named("watchdog", async move {
            watchdog.run(&manager, end.clone()).await;
            // Without a service manager it has nothing to do.
            end.cancelled().await;
        }));
    }

    fn spawn_exporter(&mut self, engine: &Engine) {
        if let Some(exporter) = engine.settings.tracer.exporter() {
            let exporter = exporter.run(self.end.clone());
            self.keepers.spawn(named("traces", exporter));
        }
    }

    fn spawn_senders(&mut self, engine: &Arc<Engine>, wanted: Wanted) {
        let (workers, recorder, recorded) = engine.senders();
        let workers = workers.run(wanted, self.drain.clone(), self.give_up.clone().cancelled_owned());
        self.senders.spawn(named("senders", workers));
        self.senders.spawn(fallible("recorder", recorder.run()));
        let statistics = engine.statistics.clone();
        self.senders.spawn(fallible("statistics", statistics.run(recorded)));
    }

    fn spawn_feeder(&mut self, engine: &Arc<Engine>, watchdog: &Watchdog) {
        let pulse = watchdog.register("feeder", ALLOWANCE);
        let feeder = engine.feeder().run(self.stop.clone(), move || pulse.beat());
        self.sources.spawn(named("feeder", feeder));
    }

    fn spawn_streams(&mut self, engine: &Arc<Engine>, config: &Config, watchdog: &Watchdog) {
        let pulse = watchdog.register("endpoints", ALLOWANCE);
        let refresh = engine.refresh().run(self.stop.clone(), move || pulse.beat());
        self.sources.spawn(fallible("endpoints", refresh));
        if config.completions.enabled {
            let pulse = watchdog.register("change stream", ALLOWANCE);
            let watch = loops::watch(Arc::clone(engine), pulse, self.stop.clone());
            self.sources.spawn(fallible("change stream", watch));
        }
    }

    fn spawn_scans(&mut self, engine: &Arc<Engine>, config: &Config, bell: &ScanBell) {
        let settings = engine.settings.clone();
        let (duties, ticked) = (engine.cluster.duties(), bell.clone());
        let tick = move || {
            if duties.borrow().scan.is_some() {
                ticked.ring();
            }
        };
        let schedule = Schedule::run(
            settings.schedule.clone(),
            engine.clock.clone(),
            tick,
            Arc::clone(&settings.schedule_changed),
            self.stop.clone(),
        );
        self.sources.spawn(named("schedule", async move {
            if let Err(error) = schedule.await {
                error!(%error, "the scan's schedule can't run");
            }
        }));
        if settings.scan.get().on_start && engine.cluster.duties().borrow().scan.is_some() {
            bell.ring();
        }
        let lookahead = engine
            .lookahead(config.completions.enabled)
            .run(bell.clone(), self.stop.clone());
        self.sources.spawn(fallible("look-ahead", lookahead));
        let scans = loops::scans(Arc::clone(engine), bell.clone(), self.stop.clone());
        self.sources.spawn(named("scan", scans));
    }

    fn spawn_upkeep(&mut self, engine: &Arc<Engine>, bell: &ScanBell) {
        let redrive = super::redrive::redrive(Arc::clone(engine), self.stop.clone());
        self.sources.spawn(named("redrive", redrive));
        let duties = loops::duties(Arc::clone(engine), bell.clone(), self.stop.clone());
        self.sources.spawn(named("duties", duties));
    }
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
