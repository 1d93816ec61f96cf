//! A backfill of many certificates while they are awarded, renewed and deleted, and instances are killed and started again.

use std::time::Duration;

use anyhow::{Context, Result};
use bson::oid::ObjectId;
use bson::{Bson, Document, RawDocumentBuf, doc};
use certhookd::sandbox::ReplicaSet;
use mongodb::Collection;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::busy::{Busy, appended_twice};
use super::fixture::Fixture;
use super::plan::Plan;
use super::platform::PATHS;

/// An instance is killed this often, and starts again at once.
const KILL_EVERY: Duration = Duration::from_secs(20);

/// Something happens to a certificate this often.
const CHANGE_EVERY: Duration = Duration::from_millis(10);

const LIMIT: Duration = Duration::from_secs(3600);

/// Changes each of which follows the last within this time are one burst.
const BURST: Duration = Duration::from_millis(100);

/// What is wrong is printed, at most this many.
const SHOWN: usize = 10;

/// Returns whether every certificate that is alive at the end has arrived as it must, and no event twice.
pub async fn run(set: &ReplicaSet, count: usize, instances: usize) -> Result<bool> {
    let plan = Plan::calm(instances);
    let fixture = Fixture::new(set, 0, &plan).await?;
    let (organization, endpoint) = configure(&fixture).await?;
    let [badge_users, operations, outbox] = ["badgeusers", "webhook_operations", "webhook_outbox"]
        .map(|name| fixture.database.collection::<Document>(name));
    let mut busy = Busy::fill(badge_users, operations.clone(), organization, count).await?;
    fixture.open().await?;
    let options = doc! { "ratePerSecond": 10_000 };
    let operation = doc! { "kind": "backfill", "selection": { "endpoint": endpoint }, "options": options };
    let (began, id) = (Instant::now(), operations.insert_one(operation).await?.inserted_id);
    let stop = CancellationToken::new();
    let (kills, lived) = tokio::join!(
        kill_until_done(&fixture, &id, &stop),
        busy.live_on(&id, CHANGE_EVERY, stop.clone())
    );
    lived?;
    let (kills, took) = (kills?, began.elapsed());
    // The stream comes to it after all that happened before.
    let last = busy.award().await?;
    let has_last = async || Ok(outbox.find_one(doc! { "deliveries.event": &last }).await?.is_some());
    wait_until(&outbox, has_last).await?;
    let is_at_rest = async || Ok(outbox.count_documents(doc! { "state": "pending" }).await? == 0);
    wait_until(&outbox, is_at_rest).await?;
    fixture.close().await?;
    let received = fixture.receiver.requests();
    let mut wrong = busy.missing(&received);
    wrong.extend(
        appended_twice(&outbox)
            .await?
            .iter()
            .map(|twice| format!("twice in the outbox: {twice}")),
    );
    wrong.extend(fixture.daemons.iter().flat_map(super::daemon::Daemon::complaints));
    println!(
        "a backfill of {count} certificates, {} alive at the end, {kills} instances killed: {} requests, {} wrong; {:.0} s, {:.0} s in all",
        busy.alive(),
        received.len(),
        wrong.len(),
        took.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    wrong.iter().take(SHOWN).for_each(|wrong| println!("  {wrong}"));
    if wrong.is_empty() {
        fixture.database.drop().await?;
    } else {
        println!("  the daemons' logs stay in {}", fixture.directory.keep().display());
    }
    Ok(wrong.is_empty())
}

/// An organization, and the id of its only endpoint.
async fn configure(fixture: &Fixture<'_>) -> Result<(ObjectId, ObjectId)> {
    let (organization, id) = (ObjectId::new(), ObjectId::new());
    let endpoint = doc! {
        "_id": id, "name": "all", "url": fixture.receiver.url(PATHS[0]), "enabled": true,
        "eventTypes": ["certificate_completed", "certificate_expired"],
    };
    let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": [endpoint] } };
    fixture.database.collection("memberconfigs").insert_one(config).await?;
    Ok((organization, id))
}

/// Kills the instances in turn until the operation has ended. Returns how many were killed.
async fn kill_until_done(fixture: &Fixture<'_>, id: &Bson, stop: &CancellationToken) -> Result<usize> {
    let _stop = stop.clone().drop_guard();
    let operations = fixture.database.collection::<Document>("webhook_operations");
    let has_ended = async || {
        let found = operations.find_one(doc! { "_id": id }).await?;
        let operation = found.context("the operation is lost")?;
        match operation.get_str("state") {
            Ok("done") => Ok(true),
            Ok("running") | Err(_) => Ok(false),
            Ok(state) => anyhow::bail!("the backfill ended as {state}: {operation}"),
        }
    };
    let ended = wait_until(&operations, has_ended);
    tokio::pin!(ended);
    for killed in 0.. {
        tokio::select! {
            ended = &mut ended => return ended.map(|()| killed),
            () = sleep(KILL_EVERY) => {}
        }
        let daemon = &fixture.daemons[killed % fixture.daemons.len()];
        daemon.kill().await?;
        daemon.start(None).await?;
    }
    Ok(usize::MAX)
}

/// Looks whether it is so, and looks again after each burst of changes of the collection.
async fn wait_until(collection: &Collection<Document>, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let waited = async {
        // Opened before looking, so that no change falls in between.
        let ids = collection.watch().pipeline([doc! { "$project": { "_id": 1 } }]);
        let mut changes = ids.max_await_time(BURST).await?.with_type::<RawDocumentBuf>();
        while !is_so().await? {
            while changes.next_if_any().await?.is_none() {}
            while changes.next_if_any().await?.is_some() {}
        }
        Ok(())
    };
    let waited = tokio::time::timeout(LIMIT, waited).await;
    waited.with_context(|| format!("it is not so after {LIMIT:?}"))?
}
