//! Several instances on one database.

use std::time::{Duration, Instant};

use bson::doc;
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, LIMIT, certificate, expired, is_scan};
use crate::layout;

/// It scans and watches from now on.
pub fn has_lease(line: &Value) -> bool {
    line["message"] == "the lease for scanning and watching has changed" && line["held"] == true
}

/// Waits until that many instances share the endpoints. A newcomer does from 6 s of age.
pub async fn settle(fixture: &Fixture, count: u64) {
    let members = doc! { "$size": i64::try_from(count).unwrap() };
    let settled = doc! { "_id": { "$regex": "^instance/" }, "members": members };
    fixture.wait_for_count(&fixture.state(), settled, count).await;
}

async fn instance_id(daemon: &Daemon) -> String {
    let ready = daemon.wait_for(|line| line["message"] == "ready").await;
    ready["instance_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn two_instances_share_the_endpoints_and_none_gets_more_than_five_requests_at_once() {
    let fixture = Fixture::new().await;
    let (first, second) = (fixture.daemon().await, fixture.daemon().await);
    settle(&fixture, 2).await;
    let paths: Vec<_> = (0..40).map(|n| format!("/{n}")).collect();
    let slow = || [Response::ok().after(Duration::from_millis(20))];
    paths.iter().for_each(|path| fixture.receiver.script(path, slow()));
    let organization = fixture
        .organization(paths.iter().map(|path| fixture.endpoint(path)).collect())
        .await;
    // The directory knows the organization before its certificates come.
    for daemon in [&first, &second] {
        daemon
            .wait_for(|line| line["message"] == "endpoints read" && line["organization"] == organization.to_hex())
            .await;
    }
    let certificates: Vec<_> = (0..25).map(|_| expired(organization)).collect();
    fixture.badge_users().insert_many(&certificates).await.unwrap();
    first.signal(Signal::SIGUSR1);
    fixture.receiver.wait_for_total(2000, LIMIT).await.unwrap();
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2000).await;
    assert_eq!(fixture.receiver.total(), 2000, "nothing twice");
    let delivered = |daemon: &Daemon| daemon.count(|line| line["message"] == "delivered");
    let (a, b) = (delivered(&first), delivered(&second));
    assert_eq!(a + b, 2000);
    assert!(a.min(b) * 4 >= a.max(b), "both deliver: {a} and {b}");
    let busiest = paths.iter().map(|path| fixture.receiver.max_parallel(path)).max();
    assert!(busiest <= Some(5), "{busiest:?} at once");
}

/// While endpoints move from one instance to the other.
#[tokio::test]
async fn no_endpoint_gets_more_than_five_requests_at_once_while_instances_come_and_go() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let paths: Vec<_> = (0..10).map(|n| format!("/{n}")).collect();
    for path in &paths {
        let slow = Response::ok().after(Duration::from_millis(150));
        fixture.receiver.script(path, [slow]);
    }
    let organization = fixture
        .organization(paths.iter().map(|path| fixture.endpoint(path)).collect())
        .await;
    let certificates = (0..400).map(|_| expired(organization));
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let mut first = fixture.daemon().await;
    fixture.receiver.wait_for_total(100, LIMIT).await.unwrap();
    let second = fixture.daemon().await;
    settle(&fixture, 2).await;
    let before = fixture.receiver.total();
    fixture.receiver.wait_for_total(before + 200, LIMIT).await.unwrap();
    assert!(first.stop().await.success());
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 4000).await;
    let delivered = |daemon: &Daemon| daemon.count(|line| line["message"] == "delivered");
    assert!(delivered(&first) > 100 && delivered(&second) > 100, "both deliver");
    assert_eq!(fixture.receiver.total(), 4000, "nothing twice");
    let busiest = paths.iter().map(|path| fixture.receiver.max_parallel(path)).max();
    assert_eq!(busiest, Some(5), "at once");
}

#[tokio::test]
async fn an_instance_that_is_killed_is_replaced_within_fifteen_seconds() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let (first, second) = (fixture.daemon().await, fixture.daemon().await);
    settle(&fixture, 2).await;
    let killed = Instant::now();
    first.signal(Signal::SIGKILL);
    second.wait_for(has_lease).await;
    println!("taken over after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(15));
    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
    fixture.wait_for(|requests| requests.len() == 1).await;
}

#[tokio::test]
async fn an_instance_that_stops_hands_over_at_once_and_any_instance_scans_on_a_signal() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut first = fixture.daemon().await;
    let second = fixture.daemon().await;
    assert_eq!(second.count(is_scan), 0, "the first one scans");
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    second.signal(Signal::SIGUSR1);
    second.wait_for(is_scan).await;
    fixture.wait_for(|requests| requests.len() == 2).await;
    assert_ne!(instance_id(&first).await, instance_id(&second).await);
    let asked = Instant::now();
    assert!(first.stop().await.success());
    second.wait_for(has_lease).await;
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

/// As after a failover to a member whose clock is behind.
#[tokio::test]
async fn a_dead_instance_whose_heartbeat_is_in_the_future_is_replaced_too() {
    let fixture = Fixture::new().await;
    let mut dead = layout::instance("dead", 0);
    let future = layout::after(Clock::local(), Duration::from_secs(600));
    dead.insert("seenAt", future);
    let state = fixture.state();
    state.insert_many([dead, layout::lease("dead")]).await.unwrap();
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    daemon.wait_for(has_lease).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    fixture.wait_for(|requests| requests.len() == 2).await;
}
