//! Each endpoint has its own part of the delivery queue, so that none waits for another.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Response;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, LIMIT, expired, expired_id, expired_in_turn, is_scan};

const NO_STREAM: &str = "completions.enabled = false";

fn slow() -> [Response; 1] {
    [Response::ok().after(Duration::from_millis(50))]
}

/// An endpoint that waits 30 s for a response, which never comes.
fn hung(fixture: &Fixture) -> Document {
    fixture.receiver.script("/hung", [Response::silence()]);
    let mut endpoint = fixture.endpoint("/hung");
    endpoint.insert("timeout", 30_000);
    endpoint
}

/// That many endpoints of one address, which the receiver counts together, and certificates for them.
async fn organization(fixture: &Fixture, path: &str, endpoints: usize, certificates: usize) -> ObjectId {
    let organization = fixture
        .organization((0..endpoints).map(|_| fixture.endpoint(path)).collect())
        .await;
    for _ in 0..certificates {
        fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    }
    organization
}

#[tokio::test]
async fn an_endpoint_gets_five_requests_at_once_and_never_more() {
    let fixture = Fixture::new().await.with(NO_STREAM);
    organization(&fixture, "/a", 1, 60).await;
    fixture.receiver.script("/a", slow());
    let _daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(60, LIMIT).await.unwrap();
    assert_eq!(fixture.receiver.max_parallel("/a"), 5);
}

#[tokio::test]
async fn all_endpoints_together_get_no_more_than_the_limit_in_all() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{NO_STREAM}\ndelivery.max_in_flight = 8"));
    for _ in 0..2 {
        organization(&fixture, "/a", 4, 20).await;
    }
    fixture.receiver.script("/a", slow());
    let _daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(160, LIMIT).await.unwrap();
    assert_eq!(fixture.receiver.max_parallel("/a"), 8);
}

#[tokio::test]
async fn one_organization_gets_no_more_than_half_of_the_limit() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{NO_STREAM}\ndelivery.max_in_flight = 8"));
    organization(&fixture, "/a", 4, 20).await;
    fixture.receiver.script("/a", slow());
    let _daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(80, LIMIT).await.unwrap();
    assert_eq!(fixture.receiver.max_parallel("/a"), 4);
}

#[tokio::test]
async fn endpoints_that_never_answered_get_no_more_than_a_quarter_of_the_limit() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{NO_STREAM}\ndelivery.max_in_flight = 16"));
    for _ in 0..10 {
        let stuck = fixture.organization((0..3).map(|_| hung(&fixture)).collect()).await;
        fixture
            .badge_users()
            .insert_many(expired_in_turn(stuck, 3))
            .await
            .unwrap();
    }
    let daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(4, LIMIT).await.unwrap();
    // Time enough for more of them.
    for nth in 2..5 {
        daemon.signal(Signal::SIGUSR1);
        daemon.wait_for_nth(is_scan, nth).await;
    }
    assert_eq!(fixture.receiver.total(), 4);
}

/// None of their endpoints has ever answered.
#[tokio::test]
async fn an_organization_with_many_hung_endpoints_delays_no_other_organization() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{NO_STREAM}\ndelivery.max_in_flight = 16"));
    let stuck = fixture.organization((0..200).map(|_| hung(&fixture)).collect()).await;
    fixture
        .badge_users()
        .insert_many(expired_in_turn(stuck, 3))
        .await
        .unwrap();
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(organization(&fixture, "/a", 4, 0).await);
    }
    let daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(2, LIMIT).await.unwrap();
    for other in others {
        fixture
            .badge_users()
            .insert_many(expired_in_turn(other, 3))
            .await
            .unwrap();
    }
    let began = Instant::now();
    daemon.signal(Signal::SIGUSR1);
    fixture
        .wait_for(|requests| requests.iter().filter(|one| one.path == "/a").count() == 60)
        .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_hung_endpoint_delays_no_other() {
    let fixture = Fixture::new().await.with(NO_STREAM);
    let organization = fixture
        .organization(vec![hung(&fixture), fixture.endpoint("/a"), fixture.endpoint("/b")])
        .await;
    fixture
        .badge_users()
        .insert_many((0..100).map(|_| expired(organization)))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(201, LIMIT).await.unwrap();
    // Its only request has not timed out yet: nobody waited for it.
    let count = |path| fixture.receiver.count(path);
    assert_eq!((count("/a"), count("/b"), count("/hung")), (100, 100, 1));
}

#[tokio::test]
async fn a_backlog_larger_than_the_queue_keeps_no_other_endpoint_out() {
    let settings = format!("{NO_STREAM}\nqueue.capacity = 16\ndelivery.max_in_flight = 16");
    let fixture = Fixture::new().await.with(&settings);
    let (stuck, well) = (
        fixture.organization(vec![hung(&fixture)]).await,
        fixture.organization(vec![fixture.endpoint("/a")]).await,
    );
    // The backlog expired first, and is read first.
    fixture
        .badge_users()
        .insert_many(expired_in_turn(stuck, 200))
        .await
        .unwrap();
    fixture
        .badge_users()
        .insert_many((0..100).map(|_| expired(well)))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(101, LIMIT).await.unwrap();
    assert_eq!(
        (fixture.receiver.count("/a"), fixture.receiver.count("/hung")),
        (100, 1)
    );
}

/// It answered until just now: what of it was fetched gives way to the others.
#[tokio::test]
async fn an_endpoint_that_begins_to_hang_with_the_queue_full_of_it_keeps_no_other_out() {
    let settings = format!("{NO_STREAM}\nqueue.capacity = 16\ndelivery.max_in_flight = 16");
    let fixture = Fixture::new().await.with(&settings);
    let endpoint = hung(&fixture);
    fixture.receiver.script("/hung", [Response::ok(), Response::silence()]);
    let stuck = fixture.organization(vec![endpoint]).await;
    let well = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture
        .badge_users()
        .insert_many(expired_in_turn(stuck, 200))
        .await
        .unwrap();
    let daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(6, LIMIT).await.unwrap();
    fixture
        .badge_users()
        .insert_many((0..100).map(|_| expired(well)))
        .await
        .unwrap();
    daemon.signal(Signal::SIGUSR1);
    fixture.receiver.wait_for_total(106, LIMIT).await.unwrap();
    assert_eq!(
        (fixture.receiver.count("/a"), fixture.receiver.count("/hung")),
        (100, 6)
    );
}

#[tokio::test]
async fn one_request_at_a_time_keeps_the_order_of_a_backlog_larger_than_the_queue() {
    let settings = "queue.capacity = 16\ndelivery.max_in_flight = 16\ndelivery.concurrency = 1";
    let fixture = Fixture::new().await.with(&format!("{NO_STREAM}\n{settings}"));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut certificates = expired_in_turn(organization, 200);
    let in_order: Vec<_> = certificates.iter().map(expired_id).collect();
    fastrand::shuffle(&mut certificates);
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let _daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(200, LIMIT).await.unwrap();
    let requests = fixture.receiver.requests();
    let ids: Vec<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids, in_order);
}

/// More of them than an endpoint has requests at once, and than the queue has slots for it.
#[tokio::test]
async fn attempts_that_panic_are_made_again_and_take_no_slot_with_them() {
    const PANICS: usize = 7;
    let settings = format!("{NO_STREAM}\nqueue.capacity = 16\ndelivery.max_in_flight = 16");
    let fixture = Fixture::new().await.with(&settings);
    organization(&fixture, "/a", 1, 20).await;
    organization(&fixture, "/b", 1, 20).await;
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", format!("to-be-sent={PANICS}*panic(no reason)"));
    let mut daemon = Daemon::spawn(command);
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 40).await;
    let broke = |line: &Value| line["level"] == "ERROR" && line["panic"] == "no reason";
    assert_eq!(daemon.count(broke), PANICS, "one line each");
    let again = doc! { "attempts": { "$gte": 2 }, "history.error": "a bug in certhookd broke off the attempt" };
    let again = fixture.count_deliveries(again).await;
    assert!((1..=PANICS as u64).contains(&again), "{again} were attempted again");
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 40, "each once");
}
