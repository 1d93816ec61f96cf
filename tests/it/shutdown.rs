//! SIGTERM: an end in time, whatever hangs, and nothing is forgotten.

use std::time::{Duration, Instant};

use bson::doc;
use certhookd::sandbox::Answer;

use crate::bed::{Bed, LIMIT, expired};

#[tokio::test]
async fn requests_that_hang_are_cut_short_at_the_end_of_the_grace_and_cost_no_attempt() {
    let bed = Bed::new().await.with("service.shutdown_grace = \"1s\"");
    let mut endpoint = bed.endpoint("/hung");
    endpoint.insert("timeout", 30_000);
    let owner = bed.organization(vec![endpoint]).await;
    bed.receiver.script("/hung", [Answer::silence()]);
    bed.badge_users()
        .insert_many((0..25).map(|_| expired(owner)))
        .await
        .unwrap();
    let mut daemon = bed.daemon().await;
    bed.receiver.wait_for_total(5, LIMIT).await.unwrap();

    let asked = Instant::now();
    assert!(daemon.stop().await.success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let as_before = doc! { "state": "pending", "attempts": 0, "claim": null };
    let released = bed.deliveries().count_documents(as_before).await.unwrap();
    assert_eq!(released, 25, "after {took:?}: {:#?}", daemon.lines());
    assert_eq!(bed.deliveries().count_documents(doc! {}).await.unwrap(), 25);

    bed.receiver.script("/hung", [Answer::ok()]);
    let _daemon = bed.daemon().await;
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "delivered", "attempts": 1 }, 25)
        .await;
}

#[tokio::test]
async fn requests_in_flight_finish_within_the_grace_and_no_more_are_made() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    bed.receiver
        .script("/a", [Answer::ok().after(Duration::from_millis(1500))]);
    bed.badge_users()
        .insert_many((0..25).map(|_| expired(owner)))
        .await
        .unwrap();
    let mut daemon = bed.daemon().await;
    bed.receiver.wait_for_total(5, LIMIT).await.unwrap();
    assert!(daemon.stop().await.success());
    let count = async |filter| bed.deliveries().count_documents(filter).await.unwrap();
    let (delivered, pending) = (
        count(doc! { "state": "delivered" }).await,
        count(doc! { "state": "pending", "attempts": 0 }).await,
    );
    assert_eq!((delivered, pending), (bed.receiver.total() as u64, 25 - delivered));
    assert!((5..=10).contains(&delivered), "{delivered}");
}
