//! Payloads that are larger than a batch may be.

use std::os::unix::process::ExitStatusExt;

use bson::{Document, doc};
use certhookd::sandbox::Answer;
use http::StatusCode;
use nix::sys::signal::Signal;

use crate::fixture::{Daemon, Fixture, expired};

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
    let busy = Answer::status(StatusCode::SERVICE_UNAVAILABLE);
    fixture.receiver.script("/large", [busy.clone(), busy, Answer::ok()]);
    let _daemon = fixture.daemon().await;
    let delivered = only(&fixture, "delivered").await;
    assert_eq!(delivered.get_i32("attempts").unwrap(), 3);
    // One version each: appended, three times begun, three results.
    assert_eq!(delivered.get_i32("version").unwrap(), 7);
    assert!(!delivered.contains_key("begun"));
}
