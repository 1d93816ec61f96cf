//! Endpoints that come, change and go while the daemon runs.

use std::time::Instant;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Answer;
use http::StatusCode;
use serde_json::Value;

use crate::bed::{Bed, Daemon, certificate, expired};

fn is_read(owner: ObjectId) -> impl Fn(&Value) -> bool {
    move |line| line["message"] == "endpoints read" && line["owner"] == owner.to_hex()
}

/// Changes an organization, and waits until the daemon has read it for the nth time.
async fn change(bed: &Bed, daemon: &Daemon, owner: ObjectId, change: Document, nth: usize) {
    let began = Instant::now();
    bed.member_configs()
        .update_one(doc! { "_ownerId": owner }, change)
        .await
        .unwrap();
    daemon.wait_for_nth(is_read(owner), nth).await;
    tell(began);
}

#[allow(clippy::print_stdout, reason = "a measurement")]
fn tell(began: Instant) {
    println!("in effect {:?} after the write began", began.elapsed());
}

async fn award(bed: &Bed, owner: ObjectId) {
    bed.badge_users().insert_one(certificate(owner, None)).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_added_changed_disabled_and_deleted_takes_effect_without_a_restart() {
    let bed = Bed::new().await;
    let daemon = bed.daemon().await;
    let began = Instant::now();
    let owner = bed.organization(vec![bed.endpoint("/first")]).await;
    daemon.wait_for(is_read(owner)).await;
    tell(began);
    let witness = bed.organization(vec![bed.endpoint("/witness")]).await;
    daemon.wait_for(is_read(witness)).await;
    award(&bed, owner).await;
    bed.wait_for(|requests| requests.len() == 1).await;

    let url = doc! { "$set": { "webHookConfig.endpoints.0.url": bed.receiver.url("/second") } };
    change(&bed, &daemon, owner, url, 2).await;
    award(&bed, owner).await;
    bed.wait_for(|requests| requests.len() == 2).await;

    let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
    change(&bed, &daemon, owner, off, 3).await;
    award(&bed, owner).await;
    let gone = doc! { "$set": { "webHookConfig.endpoints": [] } };
    change(&bed, &daemon, owner, gone, 4).await;
    award(&bed, owner).await;
    // The stream tells of awards in their order.
    award(&bed, witness).await;
    bed.wait_for(|requests| requests.len() == 3).await;
    let counts = ["/first", "/second", "/witness"].map(|path| bed.receiver.count(path));
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(bed.deliveries().count_documents(doc! { "v": 1 }).await.unwrap(), 3);
}

/// Deliveries to `path` that wait for another try.
async fn waiting(bed: &Bed, path: &str) -> ObjectId {
    bed.receiver
        .script(path, [Answer::status(StatusCode::SERVICE_UNAVAILABLE)]);
    let owner = bed.organization(vec![bed.endpoint(path)]).await;
    bed.badge_users()
        .insert_many([expired(owner), expired(owner)])
        .await
        .unwrap();
    owner
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
    bed.wait_for_count(&bed.deliveries(), failed, 8).await;

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

    bed.wait_for_count(&bed.deliveries(), doc! { "state": "delivered" }, 2)
        .await;
    assert_eq!(bed.receiver.count("/new"), 2);
    let cancelled = |reason: &str| doc! { "state": "cancelled", "reason": reason };
    bed.wait_for_count(&bed.deliveries(), cancelled("the endpoint was disabled"), 2)
        .await;
    bed.wait_for_count(&bed.deliveries(), cancelled("the endpoint was deleted"), 4)
        .await;
    let kept = doc! { "state": "cancelled", "payload": { "$exists": true }, "attempts": { "$gte": 1 } };
    assert_eq!(
        bed.deliveries().count_documents(kept).await.unwrap(),
        6,
        "kept, to be replayed"
    );
}
