//! What MongoDB refuses for one organization, or what somebody takes away, stops no other.

use bson::doc;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bed::{Bed, LIMIT, expired, expired_in_turn, is_scan};

/// More than a scan's page.
const REFUSED: i64 = 1_200;

#[tokio::test]
async fn marks_that_are_refused_by_the_hundreds_hold_up_no_other_organization() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let strict = bed.organization(vec![bed.endpoint("/strict")]).await;
    let other = bed.organization(vec![bed.endpoint("/other")]).await;
    let mut refused = expired_in_turn(strict, REFUSED);
    for certificate in &mut refused {
        certificate.insert("disabled", "maybe");
    }
    bed.badge_users().insert_many(&refused).await.unwrap();
    bed.badge_users()
        .insert_many([expired(other), expired(other)])
        .await
        .unwrap();
    let validator = doc! { "collMod": "badgeusers", "validator": { "disabled": { "$type": "bool" } } };
    bed.database.run_command(validator).await.unwrap();

    let mut daemon = bed.daemon().await;
    let all = REFUSED as usize + 2;
    bed.receiver.wait_for_total(all, LIMIT).await.unwrap();
    daemon.wait_for(is_scan).await;
    daemon.signal(Signal::SIGUSR1);
    let second = daemon.wait_for_nth(is_scan, 2).await;
    assert_eq!(second["found"], 0, "they are not taken up again: {second}");
    assert!(daemon.stop().await.success());
    let mut daemon = bed.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["found"], 0, "nor by another instance");
    assert!(daemon.stop().await.success());
    assert_eq!(bed.receiver.total(), all, "each once");
    let marked = doc! { "expiryReminderSent": true };
    assert_eq!(bed.badge_users().count_documents(marked).await.unwrap(), 2);
    let kept = doc! { "_id": { "$regex": "^unmarkable/" }, "finishedAt": null };
    assert_eq!(bed.outbox().count_documents(kept).await.unwrap(), REFUSED as u64);
}

#[tokio::test]
async fn statistics_that_are_refused_keep_no_result_from_being_recorded() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let organizations = [
        bed.organization(vec![bed.endpoint("/a")]).await,
        bed.organization(vec![bed.endpoint("/b")]).await,
    ];
    let validator = doc! { "create": "webhook_stats", "validator": { "nothing": { "$exists": true } } };
    bed.database.run_command(validator).await.unwrap();
    for organization in organizations {
        bed.badge_users()
            .insert_many(expired_in_turn(organization, 3))
            .await
            .unwrap();
    }
    for _ in 0..2 {
        let mut daemon = bed.daemon().await;
        daemon.wait_for(is_scan).await;
        bed.wait_for_deliveries(doc! { "state": "delivered" }, 6).await;
        assert!(daemon.stop().await.success());
    }
    assert_eq!(bed.receiver.total(), 6);
}

#[tokio::test]
async fn deliveries_that_can_not_be_stored_are_rejected_with_the_reason_and_the_others_go_out() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let [refused, other] = ["/refused", "/other"].map(|path| bed.endpoint(path));
    let refused = bed.organization(vec![refused]).await;
    let other = bed.organization(vec![other]).await;
    let pattern = format!("^{refused}/");
    let validator = doc! { "create": "webhook_outbox", "validator": { "endpoint": { "$not": { "$regex": pattern } } } };
    bed.database.run_command(validator).await.unwrap();
    bed.badge_users()
        .insert_many([expired(refused), expired(other)])
        .await
        .unwrap();
    let mut daemon = bed.daemon().await;
    bed.receiver.wait_for_total(1, LIMIT).await.unwrap();
    assert_eq!(bed.receiver.count("/other"), 1);
    let rejected = |line: &Value| {
        line["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("refuses to store"))
    };
    daemon.wait_for(rejected).await;
    let note = doc! { "state": "rejected", "reason": { "$regex": "refuses to store" } };
    assert_eq!(bed.outbox().count_documents(note).await.unwrap(), 1);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn indexes_of_the_outbox_that_somebody_drops_are_created_again() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let organization = bed.organization(vec![bed.endpoint("/a")]).await;
    let mut daemon = bed.daemon().await;
    daemon.wait_for(is_scan).await;
    bed.outbox().drop_indexes().await.unwrap();
    bed.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    bed.receiver.wait_for_total(1, LIMIT).await.unwrap();
    daemon
        .wait_for(|line| line["message"] == "the outbox has lost its indexes: they are created again")
        .await;
    bed.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
    assert!(daemon.stop().await.success());
    let names = bed.outbox().list_index_names().await.unwrap();
    assert!(
        names.contains(&"pending".to_owned()) && names.contains(&"events".to_owned()),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_batch_that_can_not_be_read_is_set_aside_and_the_others_go_out() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let endpoint = bed.endpoint("/a");
    let organization = bed.organization(vec![endpoint.clone()]).await;
    let key = crate::bed::endpoint_key(organization, &endpoint);
    let broken = [
        doc! { "deliveries": "none" },
        doc! { "deliveries": [{ "event": 1 }] },
        doc! { "open": "many" },
    ];
    for (n, change) in (0..).zip(&broken) {
        let mut batch = crate::bed::pending_batch(&key, &expired_in_turn(organization, 2));
        batch.insert("_id", format!("{key}/broken-{n}"));
        batch.extend(change.clone());
        bed.outbox().insert_one(batch).await.unwrap();
    }
    bed.badge_users().insert_one(expired(organization)).await.unwrap();
    let mut daemon = bed.daemon().await;
    bed.receiver.wait_for_total(1, LIMIT).await.unwrap();
    let set_aside = doc! { "state": "rejected", "reason": { "$regex": "^can't be read" } };
    bed.wait_for_count(&bed.outbox(), set_aside, broken.len() as u64).await;
    assert!(daemon.stop().await.success());
}
