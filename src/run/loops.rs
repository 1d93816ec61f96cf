//! The daemon's loops: when something is done. What is done is in the modules that they call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, doc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{Engine, report};
use crate::cluster::{BEAT, CUT_SHORT, Deliveries, NO_NEW_REQUESTS, Note, WakeUps};
use crate::dispatch::EndpointState;
use crate::model::sleep_about;
use crate::outbox::Class;
use crate::sender::OutageScope;
use crate::service::Progress;
use crate::service::systemd::Manager;
use crate::source::{Extent, Report, ScanTrigger, Timer};
use crate::store::Stopped;

/// How often the line in `systemctl status` is brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// How often an instance without the lease reports progress.
const STANDBY: Duration = Duration::from_secs(10);

/// How often certificates are marked again that MongoDB refused to mark.
const MARK_AGAIN_EVERY: Duration = Duration::from_secs(3600);

/// Asks for scans as the schedule says, while this instance holds the lease.
pub(super) async fn schedule(engine: Arc<Engine>, trigger: ScanTrigger, stop: CancellationToken) {
    let lease = engine.cluster.lease();
    let tick = move || {
        if lease.borrow().is_some() {
            trigger.ask();
        }
    };
    let timer = Timer {
        schedule: engine.settings.schedule.clone(),
        changed: Arc::clone(&engine.settings.schedule_changed),
        clock: engine.clock.clone(),
    };
    if let Err(error) = timer.run(tick, stop).await {
        error!(%error, "the scan's schedule can't run");
    }
}

/// Scans whenever that is triggered.
pub(super) async fn scans(engine: Arc<Engine>, trigger: ScanTrigger, stop: CancellationToken) -> Result<(), Stopped> {
    let scan = engine.scan(stop.clone());
    engine
        .store
        .persist("read which certificates can't be marked", || scan.load_unmarkable())
        .await?;
    let mut marked_again = Instant::now();
    let lease = engine.cluster.lease();
    let wanted = || async {
        tokio::select! {
            extent = trigger.triggered() => extent,
            () = scan.wait_for_locked(), if lease.borrow().is_some() => Extent::All,
        }
    };
    while let Some(extent) = stop.run_until_cancelled(wanted()).await {
        let report = scan.run_once(extent, engine.clock.now()).await?;
        let ended = engine.clock.now();
        engine.last_scan.set(Some((ended, report)));
        log(&report, extent);
        save(&engine, ended, &report).await?;
        if marked_again.elapsed() >= MARK_AGAIN_EVERY {
            marked_again = Instant::now();
            if let Err(error) = scan.mark_again().await {
                debug!(%error, "certificates that can't be marked are marked again in an hour");
            }
        }
    }
    Ok(())
}

/// Logs when this instance gets or loses the lease. Whoever gets it scans at once: instants of the schedule may have been missed.
pub(super) async fn lease(engine: Arc<Engine>, trigger: ScanTrigger, stop: CancellationToken) {
    let mut lease = engine.cluster.lease();
    let mut before = *lease.borrow_and_update();
    while let Some(Ok(())) = stop.run_until_cancelled(lease.changed()).await {
        let now = *lease.borrow_and_update();
        if before.is_none() && now.is_some() {
            trigger.ask();
        }
        info!(
            held = now.is_some(),
            number = now,
            "the lease for scanning and watching has changed"
        );
        before = now;
    }
}

/// Follows the change stream while this instance holds the lease.
pub(super) async fn watch(
    engine: Arc<Engine>,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<(), Stopped> {
    let mut lease = engine.cluster.lease();
    while !stop.is_cancelled() {
        progress.report();
        let Some(number) = *lease.borrow_and_update() else {
            let _ = stop
                .run_until_cancelled(tokio::time::timeout(STANDBY, lease.changed()))
                .await;
            continue;
        };
        let term = stop.child_token();
        let watching = engine.watch().run(number, term.clone(), || progress.report());
        tokio::pin!(watching);
        let ended = loop {
            tokio::select! {
                ended = &mut watching => break ended,
                _ = lease.changed() => if *lease.borrow() != Some(number) { term.cancel() },
            }
        };
        ended?;
        if !stop.is_cancelled() && *lease.borrow() == Some(number) {
            // A later lease moved the position, and the next heartbeat will show it.
            let _ = stop
                .run_until_cancelled(tokio::time::timeout(BEAT, lease.changed()))
                .await;
        }
    }
    Ok(())
}

/// A scan that finds nothing is logged at DEBUG, unless an operator asked for it.
fn log(report: &Report, extent: Extent) {
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
    if report.found > 0 || extent == Extent::AllForOperator {
        line!(info);
    } else {
        line!(debug);
    }
}

/// For `certhookd status`, which asks MongoDB.
async fn save(engine: &Engine, at: DateTime, report: &Report) -> Result<(), Stopped> {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut set = doc! {
        "at": at,
        "instance": &**engine.cluster.instance_id(),
        "found": number(report.found),
        "rejected": number(report.rejected),
        "deliveries": number(report.deliveries),
        "known": number(report.known),
        "durationMs": number(usize::try_from(report.took.as_millis()).unwrap_or(usize::MAX)),
    };
    // A scan that finds nothing does not hide what was found last.
    if report.found > 0 {
        set.insert(
            "foundLast",
            doc! { "at": at, "found": number(report.found), "deliveries": number(report.deliveries) },
        );
    }
    let set = doc! { "$set": set };
    let update = || async {
        let state = engine.store.state();
        Ok(state
            .update_one(doc! { "_id": "scan" }, set.clone())
            .upsert(true)
            .await?)
    };
    engine.store.persist("save the scan's report", update).await.map(drop)
}

/// Sends heartbeats: every two seconds, and at once where somebody waits for what the next one says.
pub(super) async fn heartbeat(engine: Arc<Engine>, progress: Arc<Progress>, end: CancellationToken) {
    let mut reporter = engine.store.outage().reporter();
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep_about(BEAT) => {}
            () = engine.cluster.beat_wanted() => {}
            () = engine.drained() => {}
        }
        let began = Instant::now();
        let beaten = engine.beat().await;
        progress.report();
        reporter.ended("take the heartbeat", began, &beaten);
    }
}

/// Holds this instance to what it may still do when its heartbeat is too old: see `cluster`.
pub(super) async fn fence(engine: Arc<Engine>, end: CancellationToken) {
    let mut silent = false;
    let mut cut = false;
    loop {
        let age = engine.cluster.age().unwrap_or_default();
        if age >= NO_NEW_REQUESTS && !silent {
            silent = true;
            // An outage has been logged already.
            if engine.store.outage().lasts().is_none() {
                warn!(
                    "no heartbeat was confirmed for 8 s: nothing more is sent until one is, other instances may take over"
                );
            }
            engine.lapsed(age);
        }
        if age >= CUT_SHORT && !cut {
            cut = true;
            engine.lapsed(age);
        }
        if age < NO_NEW_REQUESTS && std::mem::take(&mut silent) {
            cut = false;
            engine.look_again();
            debug!("heartbeats are confirmed again");
        }
        let next = if silent { CUT_SHORT } else { NO_NEW_REQUESTS };
        let wait = next.saturating_sub(age).clamp(Duration::from_millis(100), BEAT);
        if end.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Has the fetcher look at the outbox when endpoints change: one that is served again may have much waiting. The failures of one that is no
/// longer served are forgotten here: where nothing waits for it, no look would come upon it.
pub(super) async fn changed_endpoints(engine: Arc<Engine>, stop: CancellationToken) {
    let mut changes = engine.directory.subscribe();
    while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
        for endpoint in engine.queue.probed() {
            let state = engine.endpoint_state(&endpoint);
            if !matches!(state, EndpointState::Served | EndpointState::ProxyUnavailable) {
                engine.queue.forget(&endpoint);
            }
        }
        engine.look_again();
    }
}

/// Has the fetcher look at the outbox when what waits for the proxy may go out, or some of it. No endpoint counts as failing for the
/// time in which it could not be sent to.
pub(super) async fn proxy_outages(engine: Arc<Engine>, stop: CancellationToken) {
    let proxy = &engine.settings.proxy;
    let mut outages = proxy.outages();
    let mut began: Option<Instant> = None;
    while let Some(Ok(())) = stop.run_until_cancelled(outages.changed()).await {
        let scope = *outages.borrow_and_update();
        if scope != OutageScope::Nothing {
            began.get_or_insert_with(Instant::now);
        } else if let Some(began) = began.take() {
            let lasted = began.elapsed();
            let endpoint = |key: &_| engine.directory.endpoint(key);
            let back_for = |key: &_| proxy.back_for(endpoint(key)?.as_ref());
            let had_to_wait = |key: &_| back_for(key).is_some_and(|back| back < lasted);
            engine.episodes.leave_out(lasted, had_to_wait, engine.clock.now());
        }
        if scope != OutageScope::Everything {
            engine.look_again();
        }
    }
}

/// Reads for which endpoints other instances have appended something, and whether more may wait.
pub(super) async fn wake_ups(engine: Arc<Engine>, progress: Arc<Progress>, stop: CancellationToken) {
    let woken = |note: Note| {
        let endpoints = note.endpoints.into_iter();
        let mine = endpoints.filter(|endpoint| engine.cluster.is_assigned(endpoint));
        engine
            .waiting
            .queues_may_have_more(mine.map(|endpoint| (endpoint, Class::Live)));
        if note.look {
            engine.waiting.look_soon();
        }
    };
    let control = |number| engine.act_on(number);
    WakeUps::read(engine.cluster.clone(), stop, woken, control, || progress.report()).await;
}

/// The seconds between looks at all queues after a commit that is said to have failed: it may have been made, and be seen as late as
/// MongoDB ends a transaction that has expired, which is after a minute and a half.
static LOOKS_AFTER_FAILED_COMMIT: [u64; 8] = [0, 1, 2, 4, 8, 16, 32, 32];

/// Has all queues looked at after a commit that is said to have failed: nobody was told of what waits if it was made after all.
pub(super) async fn failed_commits(engine: Arc<Engine>, stop: CancellationToken) {
    let mut pauses = [].iter();
    loop {
        let pause = async {
            match pauses.next() {
                Some(seconds) => sleep_about(Duration::from_secs(*seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = engine.store.outage().failed_commit() => pauses = LOOKS_AFTER_FAILED_COMMIT.iter(),
            () = pause => {
                engine.waiting.look_soon();
                engine.wake_ups.note_look();
            }
        }
    }
}

/// Shows the state in `systemctl status`, and remembers the last hour.
pub(super) async fn status(engine: Arc<Engine>, manager: Manager, stop: CancellationToken, end: CancellationToken) {
    loop {
        let counts = &engine.tally.counts;
        engine
            .history
            .add(engine.clock.now(), counts.delivered(), counts.failed());
        let prefix = if stop.is_cancelled() { "stopping: " } else { "" };
        manager.status(&format!("{prefix}{}", report::status(&engine)));
        if end.run_until_cancelled(sleep_about(STATUS_EVERY)).await.is_none() {
            return;
        }
    }
}
