//! SIGKILL, in the middle of everything and at the seams: nothing is lost, and little is repeated.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Answer;
use nix::sys::signal::Signal;

use crate::bed::{Bed, certificate, expired, expired_id, heard};

/// What the daemon of the big test holds in memory at most.
const CAPACITY: usize = 256;

#[tokio::test]
async fn a_daemon_killed_in_a_backlog_of_two_thousand_loses_nothing_and_repeats_no_more_than_it_held() {
    let settings = format!("completions.enabled = false\nqueue.capacity = {CAPACITY}");
    let bed = Bed::new().await.with(&settings);
    for path in ["/a", "/b", "/c", "/d"] {
        bed.receiver
            .script(path, [Answer::ok().after(Duration::from_millis(10))]);
        let owner = bed.organization(vec![bed.endpoint(path)]).await;
        let certificates: Vec<_> = (0..500).map(|_| expired(owner)).collect();
        bed.badge_users().insert_many(certificates).await.unwrap();
    }

    // The first time while it still scans.
    let mut duplicates = 0;
    for killed_at in [100, 1200] {
        let mut daemon = bed.daemon().await;
        bed.receiver.wait_for_total(killed_at, crate::bed::LIMIT).await.unwrap();
        daemon.signal(Signal::SIGKILL);
        daemon.ended().await;
        let requests = bed.receiver.requests();
        duplicates = requests.len() - heard(&requests).len();
    }
    println!("{duplicates} duplicates before the second kill");
    let mut daemon = bed.daemon().await;
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "delivered", "claim": null }, 2000)
        .await;
    assert!(daemon.stop().await.success());

    let requests = bed.receiver.requests();
    let events = heard(&requests).len();
    let duplicates = requests.len() - events;
    println!("2000 events, 2 kills, {} lost, {duplicates} duplicates", 2000 - events);
    assert_eq!(events, 2000, "every event to its endpoint");
    assert!(duplicates <= 2 * CAPACITY, "{duplicates} duplicates");
    assert_eq!(bed.deliveries().count_documents(doc! {}).await.unwrap(), 2000);
    let marked = doc! { "expiryReminderSent": true };
    assert_eq!(bed.badge_users().count_documents(marked).await.unwrap(), 2000);
}

/// A delivery as a daemon leaves it that dies with a claim on it.
fn claimed(owner: ObjectId, endpoint: &Document, certificate: &Document, by: &str) -> Document {
    let key = format!("{owner}/{}", endpoint.get_object_id("_id").unwrap());
    let expires = certificate.get_datetime("expires").unwrap();
    doc! {
        "_id": format!("{}/{key}", expired_id(certificate)), "v": 1, "state": "claimed", "endpoint": key,
        "eventType": "certificate_expired", "badgeUserId": certificate.get_object_id("_id").unwrap(),
        "occurredAt": expires, "createdAt": Clock::local(), "due": expires, "attempts": 1,
        "claim": { "by": by, "n": 1_i64 }, "payload": "{}",
    }
}

#[tokio::test]
async fn claims_of_the_dead_are_adopted_and_those_of_the_living_are_left_to_them() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let endpoints = [bed.endpoint("/dead"), bed.endpoint("/living")];
    let owner = bed.organization(endpoints.to_vec()).await;
    let mut certificate = certificate(owner, Some(DateTime::from_millis(0)));
    certificate.insert("expiryReminderSent", true);
    bed.badge_users().insert_one(&certificate).await.unwrap();
    let living = claimed(owner, &endpoints[1], &certificate, "living");
    let dead = claimed(owner, &endpoints[0], &certificate, "dead");
    bed.deliveries().insert_many([&dead, &living]).await.unwrap();
    let in_an_hour = DateTime::from_millis(Clock::local().timestamp_millis() + 3_600_000);
    // Never settled, so that no lane is its own.
    let heartbeat = doc! { "_id": "daemon/living", "startedAt": in_an_hour, "seenAt": in_an_hour };
    bed.state().insert_one(heartbeat).await.unwrap();

    let _daemon = bed.daemon().await;
    let adopted = doc! { "_id": dead.get_str("_id").unwrap(), "state": "delivered", "attempts": 2 };
    bed.wait_for_count(&bed.deliveries(), adopted, 1).await;
    let untouched = bed
        .deliveries()
        .find_one(doc! { "_id": living.get_str("_id").unwrap() })
        .await;
    assert_eq!(untouched.unwrap(), Some(living));

    bed.state().delete_one(doc! { "_id": "daemon/living" }).await.unwrap();
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "delivered" }, 2)
        .await;
    assert_eq!(bed.receiver.total(), 2);
}
