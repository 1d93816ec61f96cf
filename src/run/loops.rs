//! The daemon's own loops: a ticker and a line each; what they do stands where it belongs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, doc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{Engine, Snapshot};
use crate::cluster::BEAT;
use crate::service::Pulse;
use crate::service::systemd::Manager;
use crate::source::{Report, ScanBell};
use crate::store::Stopped;

/// How often the line in `systemctl status` is brought up to date.
const STATUS: Duration = Duration::from_secs(1);

/// How often a daemon that stands by shows that it is alive.
const STANDBY: Duration = Duration::from_secs(10);

/// Scans whenever the bell rings.
pub(super) async fn scans(engine: Arc<Engine>, bell: ScanBell, stop: CancellationToken) {
    let scan = engine.scan(stop.clone());
    while let Some(asked) = stop.run_until_cancelled(bell.rung()).await {
        let Ok(report) = scan.run_once(engine.clock.now()).await else {
            return;
        };
        let ended = engine.clock.now();
        engine.last_scan.set(Some((ended, report)));
        log(&report, asked);
        if save(&engine, ended, &report).await.is_err() {
            return;
        }
    }
}

/// Tells of duties that come and go. Who takes over the scan scans at once: ticks may have been missed.
pub(super) async fn duties(engine: Arc<Engine>, bell: ScanBell, stop: CancellationToken) {
    let mut duties = engine.cluster.duties();
    let mut held = *duties.borrow_and_update();
    while let Some(Ok(())) = stop.run_until_cancelled(duties.changed()).await {
        let now = *duties.borrow_and_update();
        if held.scan.is_none() && now.scan.is_some() {
            bell.ring();
        }
        info!(
            scan = now.scan.is_some(),
            watch = now.watch.is_some(),
            "this daemon's duties have changed"
        );
        held = now;
    }
}

/// Follows the change stream while this daemon holds that lease.
pub(super) async fn watch(engine: Arc<Engine>, pulse: Pulse, stop: CancellationToken) -> Result<(), Stopped> {
    let mut duties = engine.cluster.duties();
    while !stop.is_cancelled() {
        pulse.beat();
        let Some(lease) = duties.borrow_and_update().watch else {
            let _ = stop
                .run_until_cancelled(tokio::time::timeout(STANDBY, duties.changed()))
                .await;
            continue;
        };
        let term = stop.child_token();
        let watching = engine.watch().run(lease, term.clone(), || pulse.beat());
        tokio::pin!(watching);
        let ended = loop {
            tokio::select! {
                ended = &mut watching => break ended,
                _ = duties.changed() => if duties.borrow().watch != Some(lease) { term.cancel() },
            }
        };
        ended?;
    }
    Ok(())
}

/// A scan that nobody asked for is routine.
fn log(report: &Report, asked: bool) {
    macro_rules! line {
        ($level:ident) => {
            $level!(
                found = report.found,
                rejected = report.rejected,
                deliveries = report.deliveries,
                known = report.known,
                duration_ms = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
                "scan finished"
            )
        };
    }
    if asked { line!(info) } else { line!(debug) }
}

/// For `certhookd status`, which asks MongoDB.
async fn save(engine: &Engine, at: DateTime, report: &Report) -> Result<(), Stopped> {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let set = doc! { "$set": {
        "at": at,
        "by": &**engine.cluster.me(),
        "found": number(report.found),
        "rejected": number(report.rejected),
        "deliveries": number(report.deliveries),
        "known": number(report.known),
        "durationMs": number(usize::try_from(report.took.as_millis()).unwrap_or(usize::MAX)),
    } };
    let state = engine.store.state();
    let update = || async { state.update_one(doc! { "_id": "scan" }, set.clone()).upsert(true).await };
    engine.store.persist("save the scan's report", update).await.map(drop)
}

/// Sends heartbeats; frees the claims of daemons that died, and counts what they recorded.
pub(super) async fn heartbeat(engine: Arc<Engine>, pulse: Pulse, end: CancellationToken) {
    let mut tries = engine.store.outage().tries();
    while end.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_some() {
        let began = Instant::now();
        let beaten = keep(&engine).await;
        pulse.beat();
        match beaten {
            Ok(()) => tries.succeeded(),
            Err(error) => tries.failed("take the heartbeat", &error, began),
        }
    }
}

async fn keep(engine: &Engine) -> crate::store::Result<()> {
    engine.cluster.beat().await?;
    let live = engine.cluster.live();
    if engine.outbox.adopt(&live).await? > 0 {
        engine.window.look();
    }
    engine.statistics.recover(&live).await?;
    Ok(())
}

/// Shows the state in `systemctl status`, and remembers the last hour.
pub(super) async fn status(engine: Arc<Engine>, manager: Manager, stop: CancellationToken, end: CancellationToken) {
    loop {
        let counts = &engine.tally.counts;
        engine
            .history
            .note(engine.clock.now(), counts.delivered(), counts.failed());
        let snapshot = Snapshot::take(&engine);
        let prefix = if stop.is_cancelled() { "stopping: " } else { "" };
        manager.status(&format!("{prefix}{}", snapshot.status()));
        if end.run_until_cancelled(tokio::time::sleep(STATUS)).await.is_none() {
            return;
        }
    }
}
