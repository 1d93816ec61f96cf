//! Dropping the payloads of what ended longer ago than `delivery.payload_retention`, in the background.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, DateTime};
use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Engine;
use crate::failpoint;
use crate::model::earlier;
use crate::store::{Kind, Result};

/// How often payloads to drop are looked for.
const LOOK: Duration = Duration::from_secs(30);

/// Documents per transaction: others get their turn in between.
const STEP: usize = 100;

/// How long until a step is tried again that met somebody else's write.
const AGAIN: Duration = Duration::from_millis(100);

/// Drops payloads while this instance holds the lease, until `stop`.
pub(super) async fn drop_payloads(engine: Arc<Engine>, stop: CancellationToken) {
    let lease = engine.cluster.lease();
    let mut reporter = engine.store.outage().reporter();
    let look_every = failpoint::limit("payload-look", LOOK);
    loop {
        let rest = tokio::time::sleep(reporter.rest(look_every));
        if stop.run_until_cancelled(rest).await.is_none() {
            return;
        }
        let kept = engine.settings.config.get().delivery.payload_retention;
        let (Some(kept), true) = (kept, lease.borrow().is_some()) else {
            reporter.forget();
            continue;
        };
        let began = Instant::now();
        let go_on = || !stop.is_cancelled() && lease.borrow().is_some();
        let done = look(&engine, kept, go_on).await;
        reporter.ended("drop payloads", began, &done);
    }
}

/// Drops what is due.
async fn look(engine: &Engine, kept: Duration, go_on: impl Fn() -> bool) -> Result<()> {
    let before = earlier(engine.clock.now(), kept);
    let from = engine.outbox.payloads_dropped_until().await?;
    if from.is_some_and(|from| from >= before) {
        return Ok(());
    }
    let mut ended = engine.outbox.ended_between(from, before).await?;
    let (mut ids, mut until, mut dropped) = (Vec::new(), None, 0);
    loop {
        let next = ended.try_next().await?;
        if let Some(document) = &next {
            ids.extend(
                document
                    .get("_id")
                    .ok()
                    .flatten()
                    .and_then(|id| Bson::try_from(id).ok()),
            );
            until = document.get_datetime("finishedAt").ok().or(until);
        }
        let is_last = next.is_none();
        if !ids.is_empty() && (is_last || ids.len() >= STEP) {
            dropped += step(engine, std::mem::take(&mut ids), before, &go_on).await?;
            failpoint::reach("payloads-dropped");
        }
        if !go_on() {
            return Ok(());
        }
        if is_last {
            break;
        }
        if let (true, Some(until)) = (ids.is_empty(), until) {
            engine.outbox.note_payloads_dropped(until).await?;
            failpoint::reach("payloads-noted");
        }
    }
    if until.is_some() {
        engine.outbox.note_payloads_dropped(before).await?;
        info!(
            documents = dropped,
            "payloads were dropped, as delivery.payload_retention says"
        );
    }
    Ok(())
}

/// Drops the payloads of these documents, by halves where MongoDB refuses one of them: that is left out. Rests as long as it took.
async fn step(engine: &Engine, ids: Vec<Bson>, before: DateTime, go_on: impl Fn() -> bool) -> Result<usize> {
    let (mut left, mut dropped) = (vec![ids], 0);
    while let Some(mut ids) = left.pop() {
        if !go_on() {
            break;
        }
        let began = Instant::now();
        match engine.outbox.drop_payloads(&ids, before).await {
            Ok(documents) => {
                dropped += documents;
                tokio::time::sleep(began.elapsed()).await;
            }
            Err(error) if error.kind() == Kind::Conflict => {
                left.push(ids);
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) if error.kind().is_of_content() && ids.len() > 1 => {
                let half = ids.split_off(ids.len() / 2);
                left.extend([half, ids]);
            }
            Err(error) if error.kind().is_of_content() => {
                let document = ids[0].to_string();
                warn!(document, %error, "MongoDB refuses to drop the payloads of this document: they are kept as long as it, the others go on");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(dropped)
}
