//! SIGTERM: an end in time, whatever hangs, and nothing is forgotten.

use std::time::{Duration, Instant};

use bson::doc;
use certhookd::sandbox::Response;

use crate::fixture::{Fixture, LIMIT, expired};

#[tokio::test]
async fn requests_that_hang_are_cut_short_at_the_end_of_the_grace_and_cost_no_attempt() {
    let fixture = Fixture::new().await.with("service.shutdown_grace = \"1s\"");
    let mut endpoint = fixture.endpoint("/hung");
    endpoint.insert("timeout", 30_000);
    let organization = fixture.organization(vec![endpoint]).await;
    fixture.receiver.script("/hung", [Response::silence()]);
    fixture
        .badge_users()
        .insert_many((0..25).map(|_| expired(organization)))
        .await
        .unwrap();
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();

    let asked = Instant::now();
    assert!(daemon.stop().await.success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let as_before = doc! { "state": "pending", "attempts": 0, "version": 1 };
    let untouched = fixture.count_deliveries(as_before).await;
    assert_eq!(untouched, 25, "after {took:?}: {:#?}", daemon.lines());
    assert_eq!(fixture.count_deliveries(doc! {}).await, 25);

    fixture.receiver.script("/hung", [Response::ok()]);
    let _daemon = fixture.daemon().await;
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 25)
        .await;
}

#[tokio::test]
async fn requests_in_flight_finish_within_the_grace_and_no_more_are_made() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture
        .receiver
        .script("/a", [Response::ok().after(Duration::from_millis(1500))]);
    fixture
        .badge_users()
        .insert_many((0..25).map(|_| expired(organization)))
        .await
        .unwrap();
    let mut daemon = fixture.daemon().await;
    // The first alone, and five when it has its response.
    fixture.receiver.wait_for_total(6, LIMIT).await.unwrap();
    assert!(daemon.stop().await.success());
    let count = async |filter| fixture.count_deliveries(filter).await;
    let (delivered, pending) = (
        count(doc! { "state": "delivered" }).await,
        count(doc! { "state": "pending", "attempts": 0 }).await,
    );
    assert_eq!((delivered, pending), (fixture.receiver.total() as u64, 25 - delivered));
    assert!((6..=11).contains(&delivered), "{delivered}");
}
