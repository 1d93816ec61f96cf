//! Endpoints that come, change and go while the daemon runs.

mod refresh;

use std::time::Instant;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Response;
use http::StatusCode;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, certificate, expired};

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
async fn change(fixture: &Fixture, daemon: &Daemon, organization: ObjectId, change: Document, nth: usize) {
    let began = Instant::now();
    fixture
        .member_configs()
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

async fn award(fixture: &Fixture, organization: ObjectId) {
    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_endpoint_added_changed_disabled_and_deleted_takes_effect_without_a_restart() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon().await;
    let began = Instant::now();
    let organization = fixture.organization(vec![fixture.endpoint("/first")]).await;
    daemon.wait_for(is_read(organization)).await;
    tell(began);
    let witness = fixture.organization(vec![fixture.endpoint("/witness")]).await;
    daemon.wait_for(is_read(witness)).await;
    award(&fixture, organization).await;
    fixture.wait_for(|requests| requests.len() == 1).await;

    let url = doc! { "$set": { "webHookConfig.endpoints.0.url": fixture.receiver.url("/second") } };
    change(&fixture, &daemon, organization, url, 2).await;
    award(&fixture, organization).await;
    fixture.wait_for(|requests| requests.len() == 2).await;

    let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
    change(&fixture, &daemon, organization, off, 3).await;
    award(&fixture, organization).await;
    let gone = doc! { "$set": { "webHookConfig.endpoints": [] } };
    change(&fixture, &daemon, organization, gone, 4).await;
    award(&fixture, organization).await;
    // The stream tells of awards in their order.
    award(&fixture, witness).await;
    fixture.wait_for(|requests| requests.len() == 3).await;
    let counts = ["/first", "/second", "/witness"].map(|path| fixture.receiver.count(path));
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(fixture.count_deliveries(doc! {}).await, 3);
}

/// Deliveries to `path` that wait for another attempt.
async fn waiting(fixture: &Fixture, path: &str) -> ObjectId {
    fixture
        .receiver
        .script(path, [Response::status(StatusCode::SERVICE_UNAVAILABLE)]);
    let organization = fixture.organization(vec![fixture.endpoint(path)]).await;
    fixture
        .badge_users()
        .insert_many([expired(organization), expired(organization)])
        .await
        .unwrap();
    organization
}

#[tokio::test]
async fn what_waits_for_an_endpoint_goes_to_its_new_address_or_is_cancelled_with_it() {
    let fixture = Fixture::new().await;
    let [moved, disabled, removed, dropped] = [
        waiting(&fixture, "/moved").await,
        waiting(&fixture, "/off").await,
        waiting(&fixture, "/out").await,
        waiting(&fixture, "/gone").await,
    ];
    let daemon = fixture.daemon().await;
    let failed = doc! { "state": "pending", "lastStatus": 503 };
    fixture.wait_for_deliveries(failed, 8).await;

    let set = |field: &str, value: bson::Bson| doc! { "$set": { format!("webHookConfig.endpoints.{field}"): value } };
    change(
        &fixture,
        &daemon,
        moved,
        set("0.url", fixture.receiver.url("/new").into()),
        1,
    )
    .await;
    change(&fixture, &daemon, disabled, set("0.enabled", false.into()), 1).await;
    change(
        &fixture,
        &daemon,
        removed,
        doc! { "$pop": { "webHookConfig.endpoints": 1 } },
        1,
    )
    .await;
    fixture
        .member_configs()
        .delete_one(doc! { "_ownerId": dropped })
        .await
        .unwrap();

    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2).await;
    assert_eq!(fixture.receiver.count("/new"), 2);
    let cancelled = |reason: &str| doc! { "state": "cancelled", "reason": reason };
    fixture
        .wait_for_deliveries(cancelled("the endpoint was disabled"), 2)
        .await;
    fixture
        .wait_for_deliveries(cancelled("the endpoint was deleted"), 2)
        .await;
    let kept = doc! { "state": "cancelled", "attempts": { "$gte": 1 } };
    assert_eq!(fixture.count_deliveries(kept).await, 4, "kept, to be replayed");
    // A document may be missing because its collection is being restored.
    daemon
        .wait_for(|line| is_missing(line) && line["organization"] == dropped.to_hex())
        .await;
    assert_eq!(fixture.count_deliveries(doc! { "state": "pending" }).await, 2);
}
