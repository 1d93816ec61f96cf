//! What MongoDB refuses an operation to write, beside the operation itself.

use bson::{Document, doc};
use serde_json::Value;

use super::held;
use crate::fixture::{Fixture, certificate, endpoint_key};

/// From now on MongoDB takes no document of `webhook_state` that `refused` matches.
async fn refuse(fixture: &Fixture, refused: Document) {
    let validator = doc! { "$nor": [refused] };
    let modify = doc! { "collMod": "webhook_state", "validator": validator };
    fixture.database.run_command(modify).await.unwrap();
}

#[tokio::test]
async fn a_hold_that_can_not_be_written_fails_with_the_reason_and_stops_nothing_else() {
    let table = [
        ("hold", doc! { "_id": { "$regex": "^hold/" } }),
        ("hold", doc! { "_id": "control", "number": { "$gt": 0 } }),
        ("hold", doc! { "by": "ops" }),
        (
            "release",
            doc! { "_id": { "$regex": "^hold/" }, "until": { "$type": "date" } },
        ),
        ("release", doc! { "_id": "control", "number": { "$gt": 0 } }),
    ];
    for (kind, refused) in table {
        let fixture = Fixture::new().await;
        let (one, other) = (fixture.endpoint("/one"), fixture.endpoint("/other"));
        let organization = fixture.organization(vec![one.clone(), other]).await;
        let key = endpoint_key(organization, &one);
        if kind == "release" {
            let hold = doc! { "_id": format!("hold/endpoint/{key}"), "by": "somebody", "until": null };
            fixture.state().insert_one(hold).await.unwrap();
        }
        let daemon = fixture.daemon().await;
        refuse(&fixture, refused.clone()).await;
        let operation = doc! { "kind": kind, "selection": { "endpoint": &key }, "by": "ops" };
        let ended = fixture.operate(operation).await;
        let what = format!("{kind}, refused: {refused}");
        assert_eq!(ended.get_str("state").unwrap(), "failed", "{what}: {ended}");
        let error = ended.get_str("error").unwrap();
        assert!(
            error.contains("DocumentValidationFailure") || error.contains("121"),
            "{what}: {error}"
        );
        assert!(!error.contains("errInfo"), "{what}: {error}");
        // As before: held or not.
        fixture
            .badge_users()
            .insert_one(certificate(organization, None))
            .await
            .unwrap();
        let delivered = if kind == "release" { 1 } else { 2 };
        fixture
            .wait_for_deliveries(doc! { "state": "delivered" }, delivered)
            .await;
        let count = fixture.receiver.count("/one");
        assert_eq!(count, usize::from(kind == "hold"), "{what}");
        let cancel = doc! { "kind": "replay", "selection": { "organization": organization, "states": ["dead"] } };
        let next = fixture.operate(cancel).await;
        assert_eq!(next.get_str("state").unwrap(), "done", "{what}: {next}");
        daemon
            .wait_for(|line| line["message"] == "an operation has failed")
            .await;
        assert_eq!(daemon.count(|line: &Value| line["level"] == "ERROR"), 1, "{what}");
    }
}

#[tokio::test]
async fn a_cancellation_whose_control_number_can_not_be_written_says_what_it_did() {
    let fixture = Fixture::new().await;
    held(&fixture, 30).await;
    let _daemon = fixture.daemon().await;
    refuse(&fixture, doc! { "_id": "control", "number": { "$gt": 0 } }).await;
    let ended = fixture
        .operate(doc! { "kind": "cancel", "selection": { "all": true } })
        .await;
    assert_eq!(ended.get_str("state").unwrap(), "failed", "{ended}");
    let progress = ended.get_document("progress").unwrap();
    assert_eq!(progress.get_i64("done").unwrap(), 30, "{ended}");
    assert_eq!(fixture.count_deliveries(doc! { "state": "cancelled" }).await, 30);
}
