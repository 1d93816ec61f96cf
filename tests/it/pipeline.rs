//! One way through: from the platform's documents to the receiver.

use bson::{DateTime, doc};
use certhookd::model::Clock;
use nix::sys::signal::Signal;

use crate::bed::{Bed, certificate, expired, is_scan};

#[tokio::test]
async fn an_expired_certificate_is_marked_and_sent() {
    let bed = Bed::new().await;
    let organization = bed.organization(vec![bed.endpoint("/a")]).await;
    let document = expired(organization);
    bed.badge_users().insert_one(&document).await.unwrap();
    let mut daemon = bed.daemon().await;

    let requests = bed.wait_for(|requests| requests.len() == 1).await;
    let id = document.get_object_id("_id").unwrap();
    let marked = bed.badge_users().find_one(doc! { "_id": id }).await.unwrap().unwrap();
    assert!(marked.get_bool("expiryReminderSent").unwrap());
    assert!(marked.get_datetime("updatedAt").unwrap() > document.get_datetime("updatedAt").unwrap());

    let request = &requests[0];
    let expires = document.get_datetime("expires").unwrap().timestamp_millis();
    assert_eq!(request.header("x-webhook-event"), "certificate_expired");
    assert_eq!(
        request.header("webhook-id"),
        format!("certificate_expired_{id}_{expires}")
    );
    let mut raw = Vec::new();
    let marked = bson::serialize_to_raw_document_buf(&marked).unwrap();
    certhookd::platform::append_json(&marked, &mut raw).unwrap();
    assert_eq!(request.body, raw, "the payload is the document as marked");
    bed.wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 1)
        .await;
    assert!(daemon.stop().await.success());
    assert_eq!(bed.receiver.total(), 1);
}

#[tokio::test]
async fn an_awarded_certificate_is_sent_and_one_awarded_again_too() {
    let bed = Bed::new().await;
    let organization = bed.organization(vec![bed.endpoint("/a")]).await;
    let _daemon = bed.daemon().await;
    let document = certificate(organization, None);
    let id = document.get_object_id("_id").unwrap();
    bed.badge_users().insert_one(&document).await.unwrap();
    let first = bed.wait_for(|requests| requests.len() == 1).await;
    assert_eq!(first[0].header("x-webhook-event"), "certificate_completed");

    // A write that leaves `creationDate` alone is no award.
    bed.badge_users()
        .update_one(doc! { "_id": id }, doc! { "$set": { "disabled": true } })
        .await
        .unwrap();
    let again = DateTime::from_millis(Clock::local().timestamp_millis() + 1);
    bed.badge_users()
        .update_one(doc! { "_id": id }, doc! { "$set": { "creationDate": again } })
        .await
        .unwrap();
    let second = bed.wait_for(|requests| requests.len() == 2).await;
    assert_ne!(second[0].header("webhook-id"), second[1].header("webhook-id"));
    let body: serde_json::Value = serde_json::from_slice(&second[1].body).unwrap();
    let awarded = DateTime::parse_rfc3339_str(body["creationDate"].as_str().unwrap()).unwrap();
    assert_eq!(awarded, again);
    assert_eq!(body["disabled"], true);
}

#[tokio::test]
async fn a_signal_scans_and_a_restart_sends_nothing_twice() {
    let bed = Bed::new().await;
    let organization = bed.organization(vec![bed.endpoint("/a")]).await;
    let mut daemon = bed.daemon().await;
    daemon.wait_for(is_scan).await;
    bed.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    // The award and its expiry.
    bed.wait_for(|requests| requests.len() == 2).await;
    assert!(daemon.stop().await.success());
    let daemon = bed.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["found"], 0);
    assert_eq!(bed.receiver.total(), 2);
}
