//! Several daemons on one database.

use std::time::Duration;

use bson::doc;
use nix::sys::signal::Signal;

use crate::bed::{Bed, Daemon, certificate, expired, is_scan};

fn holds_both(line: &serde_json::Value) -> bool {
    line["message"] == "this daemon's duties have changed" && line["scan"] == true && line["watch"] == true
}

/// The state document of a daemon, by its name in the log.
async fn settle(bed: &Bed, count: u64) {
    // A daemon counts as settled 8 s after its start; its age is the database's word, so it is asked.
    let ready =
        doc! { "_id": { "$regex": "^daemon/" }, "$expr": { "$gt": [{ "$subtract": ["$$NOW", "$startedAt"] }, 9000] } };
    bed.wait_for_count(&bed.state(), ready, count).await;
}

async fn name(daemon: &Daemon) -> String {
    daemon.wait_for(|line| line["message"] == "ready").await["daemon"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn two_daemons_share_the_endpoints_and_none_gets_more_than_five_requests_at_once() {
    let bed = Bed::new().await;
    let (first, second) = (bed.daemon().await, bed.daemon().await);
    settle(&bed, 2).await;
    let paths: Vec<_> = (0..40).map(|n| format!("/{n}")).collect();
    let slow = || [certhookd::sandbox::Answer::ok().after(Duration::from_millis(20))];
    paths.iter().for_each(|path| bed.receiver.script(path, slow()));
    let owner = bed
        .organization(paths.iter().map(|path| bed.endpoint(path)).collect())
        .await;
    // The directory knows the organization before its certificates come.
    for daemon in [&first, &second] {
        daemon
            .wait_for(|line| line["message"] == "endpoints read" && line["owner"] == owner.to_hex())
            .await;
    }
    let certificates: Vec<_> = (0..25).map(|_| expired(owner)).collect();
    bed.badge_users().insert_many(&certificates).await.unwrap();
    first.signal(Signal::SIGUSR1);
    bed.receiver.wait_for_total(2000, crate::bed::LIMIT).await.unwrap();
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "delivered" }, 2000)
        .await;
    assert_eq!(bed.receiver.total(), 2000, "nothing twice");
    let delivered = |daemon: &Daemon| daemon.count(|line| line["message"] == "delivered");
    let (a, b) = (delivered(&first), delivered(&second));
    assert_eq!(a + b, 2000);
    assert!(a.min(b) * 4 >= a.max(b), "both deliver: {a} and {b}");
    let busiest = paths.iter().map(|path| bed.receiver.max_parallel(path)).max();
    assert!(busiest <= Some(5), "{busiest:?} at once");
}

#[tokio::test]
async fn a_daemon_that_is_killed_is_replaced_within_fifteen_seconds() {
    let bed = Bed::new().await;
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    let first = bed.daemon().await;
    let second = bed.daemon().await;
    settle(&bed, 2).await;
    let killed = std::time::Instant::now();
    first.signal(Signal::SIGKILL);
    second.wait_for(holds_both).await;
    println!("taken over after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(15));
    bed.badge_users().insert_one(certificate(owner, None)).await.unwrap();
    bed.wait_for(|requests| requests.len() == 1).await;
}

#[tokio::test]
async fn a_daemon_that_stops_hands_over_at_once_and_any_daemon_scans_on_a_signal() {
    let bed = Bed::new().await;
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    let mut first = bed.daemon().await;
    let second = bed.daemon().await;
    assert_eq!(second.count(is_scan), 0, "the first one holds the scan");
    bed.badge_users().insert_one(expired(owner)).await.unwrap();
    second.signal(Signal::SIGUSR1);
    second.wait_for(is_scan).await;
    bed.wait_for(|requests| requests.len() == 2).await;
    assert_ne!(name(&first).await, name(&second).await);
    let asked = std::time::Instant::now();
    assert!(first.stop().await.success());
    second.wait_for(holds_both).await;
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}
