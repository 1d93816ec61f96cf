//! Payloads that are larger than a batch may be.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Response;
use http::StatusCode;
use nix::sys::signal::Signal;

use crate::fixture::{Daemon, Fixture, LIMIT, expired, is_scan};

/// An organization with one endpoint at `/large`, and an expired certificate of 2 MB.
async fn large() -> Fixture {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture.organization(vec![fixture.endpoint("/large")]).await;
    let mut certificate = expired(organization);
    certificate.insert("ruleData", doc! { "description": "x".repeat(2 << 20) });
    fixture.badge_users().insert_one(certificate).await.unwrap();
    fixture
}

async fn only(fixture: &Fixture, state: &str) -> Document {
    fixture.wait_for_deliveries(doc! { "state": state }, 1).await;
    fixture
        .outbox()
        .find_one(doc! { "state": state })
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_payload_that_ends_the_process_again_and_again_becomes_a_dead_letter() {
    let fixture = large().await;
    for attempt in 1..=5 {
        let mut command = fixture.command(&["run"]);
        command.env("FAILPOINTS", "large-begun=return");
        let status = Daemon::spawn(command).ended().await;
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "attempt {attempt}");
    }
    let other = fixture.organization(vec![fixture.endpoint("/small")]).await;
    fixture.badge_users().insert_one(expired(other)).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
    let dead = only(&fixture, "dead").await;
    let error = dead.get_str("lastError").unwrap();
    assert!(error.contains("ended during each of the last 5 attempts"), "{error}");
    assert!(!dead.contains_key("begun"), "a replay begins anew");
    daemon
        .wait_for(|line| line["level"] == "ERROR" && line["message"].as_str().unwrap().contains("dead letter"))
        .await;
    assert_eq!(fixture.receiver.total(), 1, "the small one");
}

#[tokio::test]
async fn a_result_erases_the_note_that_an_attempt_has_begun() {
    let fixture = large().await;
    let busy = Response::status(StatusCode::SERVICE_UNAVAILABLE);
    fixture.receiver.script("/large", [busy.clone(), busy, Response::ok()]);
    let _daemon = fixture.daemon().await;
    let delivered = only(&fixture, "delivered").await;
    assert_eq!(delivered.get_i32("attempts").unwrap(), 3);
    // One version each: appended, three times begun, three results.
    assert_eq!(delivered.get_i32("version").unwrap(), 7);
    assert!(!delivered.contains_key("begun"));
}

/// Nothing says that the payload ends the process.
#[tokio::test]
async fn an_attempt_that_a_shutdown_cuts_short_counts_as_not_begun() {
    let fixture = large().await.with("service.shutdown_grace = \"0s\"");
    fixture.receiver.script("/large", [Response::silence()]);
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    let begun = doc! { "state": "pending", "begun": 1 };
    assert_eq!(fixture.outbox().count_documents(begun).await.unwrap(), 1);
    assert!(daemon.stop().await.success());
    let pending = only(&fixture, "pending").await;
    assert_eq!(pending.get_i32("begun").unwrap_or(0), 0);
}

/// An organization with that many endpoints that hang.
async fn hung(fixture: &Fixture, endpoints: usize) -> ObjectId {
    fixture.receiver.script("/hung", [Response::silence()]);
    let endpoint = |_| {
        let mut endpoint = fixture.endpoint("/hung");
        endpoint.insert("timeout", 30_000);
        endpoint
    };
    fixture.organization((0..endpoints).map(endpoint).collect()).await
}

/// A certificate with that many bytes expires.
async fn expire(fixture: &Fixture, daemon: &Daemon, organization: ObjectId, bytes: usize) {
    let mut certificate = expired(organization);
    certificate.insert("ruleData", doc! { "description": "x".repeat(bytes) });
    fixture.badge_users().insert_one(certificate).await.unwrap();
    let scans = daemon.count(is_scan);
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_nth(is_scan, scans + 1).await;
}

/// Whether what is sent to endpoints that hang for 30 s, `bytes` each, leaves space for a payload of another organization.
async fn leaves_room(endpoints: usize, bytes: usize, others: usize) {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let hung = hung(&fixture, endpoints).await;
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    expire(&fixture, &daemon, hung, bytes).await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    expire(&fixture, &daemon, other, others).await;
    let began = Instant::now();
    fixture
        .wait_for(|requests| requests.iter().any(|one| one.path == "/other"))
        .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn payloads_in_flight_to_hung_endpoints_leave_room_for_those_of_another_organization() {
    leaves_room(40, 700_000, 1).await;
}

#[tokio::test]
async fn large_payloads_in_flight_to_hung_endpoints_leave_room_for_those_of_another_organization() {
    leaves_room(40, 4_000_000, 1).await;
}

#[tokio::test]
async fn the_largest_payload_goes_out_beside_large_ones_that_hang() {
    leaves_room(3, 4_000_000, 14_000_000).await;
}
