//! Large payloads for many endpoints on a MongoDB with a small cache: a transaction that is too large for it is aborted.

use bson::doc;
use certhookd::sandbox::{Options, Receiver, ReplicaSet};
use nix::sys::signal::Signal;

use crate::fixture::{Fixture, LIMIT, certificate, expired, expired_in_turn, is_scan};
use crate::isolation::process::Process;

const PAYLOAD: usize = 20_000;

/// 120 MB in all, half of the cache. A hundred certificates for three hundred endpoints, 600 MB, take 20 s more.
const CERTIFICATES: i64 = 60;
const ENDPOINTS: usize = 100;

/// What a daemon takes at most, in MB, beside 16 MB of payload and two pages of 4 MB.
const MEMORY: u64 = 200;

#[tokio::test]
async fn payloads_that_are_large_together_are_appended_and_marked_and_delay_no_other() {
    let set = ReplicaSet::start(Options {
        cache_gb: 0.25,
        ..Options::default()
    });
    let set = set.await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
    let counting = Receiver::counting().unwrap();
    let endpoint = || {
        let mut endpoint = fixture.endpoint("/large");
        endpoint.insert("url", counting.url("/large"));
        endpoint.insert("eventTypes", ["certificate_expired"].as_slice());
        endpoint
    };
    let large = fixture.organization((0..ENDPOINTS).map(|_| endpoint()).collect()).await;
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let mut daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    let mut documents = expired_in_turn(large, CERTIFICATES);
    for document in &mut documents {
        document.insert("ruleData", doc! { "text": "x".repeat(PAYLOAD) });
    }
    fixture.badge_users().insert_many(&documents).await.unwrap();
    fixture.badge_users().insert_one(expired(other)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    let total = documents.len() * ENDPOINTS;
    // Amid the first: an award.
    counting.wait_for_total(1, LIMIT).await.unwrap();
    fixture
        .badge_users()
        .insert_one(certificate(other, None))
        .await
        .unwrap();
    fixture.receiver.wait_for_total(2, LIMIT).await.unwrap();
    assert!(
        counting.total() < total,
        "the other organization's award has waited for all of them"
    );
    let report = daemon.wait_for_nth(is_scan, 2).await;
    counting.wait_for_total(total, LIMIT).await.unwrap();
    fixture
        .wait_for_deliveries(doc! { "state": "delivered" }, total as u64 + 3)
        .await;
    let memory = Process::of(&daemon).memory("VmHWM");
    println!("{memory} MB; {report}");
    assert!(memory < MEMORY, "{memory} MB");
    assert!(daemon.stop().await.success());
    assert_eq!(
        (report["found"].as_u64(), counting.total()),
        (Some(CERTIFICATES as u64 + 1), total),
        "each once"
    );
    let marked = doc! { "expiryReminderSent": true };
    let marked = fixture.badge_users().count_documents(marked).await.unwrap();
    assert_eq!(marked, CERTIFICATES as u64 + 1);
}
