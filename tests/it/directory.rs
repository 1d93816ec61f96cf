//! Endpoints that come, change and go while the daemon runs.

mod refresh;

use std::time::Instant;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Answer;
use http::StatusCode;
use serde_json::Value;

use crate::bed::{Bed, Daemon, certificate, expired};

fn is_read(organization: ObjectId) -> impl Fn(&Value) -> bool {
    move |line| line["message"] == "endpoints read" && line["organization"] == organization.to_hex()
}

fn is_missing(line: &Value) -> bool {
    let told = "the organization's configuration document is missing";
    line["level"] == "WARN"
        && line["message"]
            .as_str()
            .is_some_and(|message| message.starts_with(told))
}

/// Changes an organization, and waits until the daemon has read it for the nth time.
async fn change(bed: &Bed, daemon: &Daemon, organization: ObjectId, change: Document, nth: usize) {
    let began = Instant::now();
    bed.member_configs()
        .update_one(doc! { "_ownerId": organization }, change)
        .await
        .unwrap();
    daemon.wait_for_nth(is_read(organization), nth).await;
    tell(began);
}

#[allow(clippy::print_stdout, reason = "a measurement")]
fn tell(began: Instant) {
    println!("in effect {:?} after the write began", began.elapsed());
}

async fn award(bed: &Bed, organization: ObjectId) {
    bed.badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_endpoint_added_changed_disabled_and_deleted_takes_effect_without_a_restart() {
    let bed = Bed::new().await;
    let daemon = bed.daemon().await;
    let began = Instant::now();
    let organization = bed.organization(vec![bed.endpoint("/first")]).await;
    daemon.wait_for(is_read(organization)).await;
    tell(began);
    let witness = bed.organization(vec![bed.endpoint("/witness")]).await;
    daemon.wait_for(is_read(witness)).await;
    award(&bed, organization).await;
    bed.wait_for(|requests| requests.len() == 1).await;

    let url = doc! { "$set": { "webHookConfig.endpoints.0.url": bed.receiver.url("/second") } };
    change(&bed, &daemon, organization, url, 2).await;
    award(&bed, organization).await;
    bed.wait_for(|requests| requests.len() == 2).await;

    let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
    change(&bed, &daemon, organization, off, 3).await;
    award(&bed, organization).await;
    let gone = doc! { "$set": { "webHookConfig.endpoints": [] } };
    change(&bed, &daemon, organization, gone, 4).await;
    award(&bed, organization).await;
    // The stream tells of awards in their order.
    award(&bed, witness).await;
    bed.wait_for(|requests| requests.len() == 3).await;
    let counts = ["/first", "/second", "/witness"].map(|path| bed.receiver.count(path));
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(bed.count_deliveries(doc! {}).await, 3);
}

/// Deliveries to `path` that wait for another attempt.
async fn waiting(bed: &Bed, path: &str) -> ObjectId {
    bed.receiver
        .script(path, [Answer::status(StatusCode::SERVICE_UNAVAILABLE)]);
    let organization = bed.organization(vec![bed.endpoint(path)]).await;
    bed.badge_users()
        .insert_many([expired(organization), expired(organization)])
        .await
        .unwrap();
    organization
}

#[tokio::test]
async fn what_waits_for_an_endpoint_goes_to_its_new_address_or_is_cancelled_with_it() {
    let bed = Bed::new().await;
    let [moved, disabled, removed, dropped] = [
        waiting(&bed, "/moved").await,
        waiting(&bed, "/off").await,
        waiting(&bed, "/out").await,
        waiting(&bed, "/gone").await,
    ];
    let daemon = bed.daemon().await;
    let failed = doc! { "state": "pending", "lastStatus": 503 };
    bed.wait_for_deliveries(failed, 8).await;

    let set = |field: &str, value: bson::Bson| doc! { "$set": { format!("webHookConfig.endpoints.{field}"): value } };
    change(&bed, &daemon, moved, set("0.url", bed.receiver.url("/new").into()), 1).await;
    change(&bed, &daemon, disabled, set("0.enabled", false.into()), 1).await;
    change(
        &bed,
        &daemon,
        removed,
        doc! { "$pop": { "webHookConfig.endpoints": 1 } },
        1,
    )
    .await;
    bed.member_configs()
        .delete_one(doc! { "_ownerId": dropped })
        .await
        .unwrap();

    bed.wait_for_deliveries(doc! { "state": "delivered" }, 2).await;
    assert_eq!(bed.receiver.count("/new"), 2);
    let cancelled = |reason: &str| doc! { "state": "cancelled", "reason": reason };
    bed.wait_for_deliveries(cancelled("the endpoint was disabled"), 2).await;
    bed.wait_for_deliveries(cancelled("the endpoint was deleted"), 2).await;
    let kept = doc! { "state": "cancelled", "attempts": { "$gte": 1 } };
    assert_eq!(bed.count_deliveries(kept).await, 4, "kept, to be replayed");
    // A document may be missing because its collection is being restored.
    daemon
        .wait_for(|line| is_missing(line) && line["organization"] == dropped.to_hex())
        .await;
    assert_eq!(bed.count_deliveries(doc! { "state": "pending" }).await, 2);
}
