//! Failed attempts: repeated in time, counted, and told to the operator; in the end a dead letter.

use std::time::Duration;

use bson::{Document, doc};
use certhookd::sandbox::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, expired};

const ALONE: &str = "completions.enabled = false\ndelivery.redrive_for = \"0s\"";

/// A daemon with one delivery to `/a`, which responds so.
async fn one(settings: &str, responses: impl IntoIterator<Item = Response>) -> (Fixture, Daemon) {
    let fixture = Fixture::new().await.with(&format!("{ALONE}\n{settings}"));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.receiver.script("/a", responses);
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    (fixture, daemon)
}

async fn in_state(fixture: &Fixture, state: &str) -> Document {
    fixture.wait_for_deliveries(doc! { "state": state }, 1).await;
    fixture.deliveries(doc! { "state": state }).await.remove(0)
}

/// These fields are in the document.
fn holds(document: &Document, fields: Document) {
    for (name, value) in fields {
        assert_eq!(document.get(&name), Some(&value), "{name}");
    }
}

/// The log's lines about the delivery, as (level, attempt, beginning of the message).
fn story(daemon: &Daemon) -> Vec<(String, u64, String)> {
    let lines = daemon.lines().into_iter().filter(|line| line["level"] != "DEBUG");
    let about = lines.filter(|line| line["event_id"].is_string());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    about
        .map(|line| {
            (
                text(&line["level"]),
                line["attempt"].as_u64().unwrap(),
                text(&line["message"]),
            )
        })
        .collect()
}

fn line(level: &str, attempt: u64, message: &str) -> (String, u64, String) {
    (level.to_owned(), attempt, message.to_owned())
}

fn busy(retry_after: &'static str) -> Response {
    Response::status(StatusCode::TOO_MANY_REQUESTS).header(header::RETRY_AFTER, HeaderValue::from_static(retry_after))
}

#[tokio::test]
async fn an_endpoint_that_fails_twice_gets_the_event_again_after_growing_pauses() {
    let (fixture, mut daemon) = one("", Response::failing(2, StatusCode::SERVICE_UNAVAILABLE)).await;
    let delivery = in_state(&fixture, "delivered").await;
    holds(&delivery, doc! { "attempts": 3, "lastStatus": 200 });
    assert!(daemon.stop().await.success());

    let requests = fixture.receiver.requests();
    let pauses: Vec<_> = requests
        .windows(2)
        .map(|pair| pair[1].instant - pair[0].instant)
        .collect();
    // 500 ms and 1 s, a fifth of it jitter.
    assert!(
        pauses[0] >= Duration::from_millis(400) && pauses[1] >= Duration::from_millis(800),
        "{pauses:?}"
    );
    for name in ["webhook-id", "x-webhook-event"] {
        assert!(
            requests
                .iter()
                .all(|request| request.header(name) == requests[0].header(name))
        );
    }
    assert_eq!(
        story(&daemon),
        [
            line("WARN", 1, "attempt failed; it is made again"),
            line("INFO", 3, "delivered after 3 attempts"),
        ]
    );
}

#[tokio::test]
async fn attempts_used_up_are_a_dead_letter_that_is_kept_and_left_alone() {
    let (fixture, mut daemon) = one("delivery.max_attempts = 3", [Response::status(StatusCode::BAD_GATEWAY)]).await;
    let dead = in_state(&fixture, "dead").await;
    holds(
        &dead,
        doc! { "attempts": 3, "reason": "3 attempts failed", "lastStatus": 502, "lastError": "status 502" },
    );
    assert!(
        dead.get_str("payload").unwrap().starts_with("{\"_id\":"),
        "it can be sent again"
    );
    assert!(daemon.stop().await.success());
    let end = "dead letter: 3 attempts failed; kept, `certhookd status` counts it";
    assert_eq!(
        story(&daemon),
        [
            line("WARN", 1, "attempt failed; it is made again"),
            line("ERROR", 3, end)
        ]
    );

    let mut daemon = fixture.daemon().await;
    daemon.wait_for(crate::fixture::is_scan).await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 3);
    assert_eq!(in_state(&fixture, "dead").await, dead);
}

#[tokio::test]
async fn the_retry_period_ends_the_attempts_too() {
    let slow = Response::status(StatusCode::BAD_GATEWAY).after(Duration::from_millis(700));
    let (fixture, _daemon) = one("delivery.retry_window = \"1s\"\ndelivery.max_attempts = 3", [slow]).await;
    let dead = in_state(&fixture, "dead").await;
    holds(&dead, doc! { "reason": "the retry period ended after 2 attempts" });
    assert_eq!(fixture.receiver.total(), 2);
}

#[tokio::test]
async fn a_receiver_that_is_gone_for_good_is_not_asked_again() {
    let (fixture, mut daemon) = one("", [Response::status(StatusCode::GONE)]).await;
    let dead = in_state(&fixture, "dead").await;
    holds(&dead, doc! { "attempts": 1, "reason": "410 Gone: not retried" });
    assert!(daemon.stop().await.success());
    let end = "dead letter: 410 Gone: not retried; kept, `certhookd status` counts it";
    assert_eq!(story(&daemon), [line("ERROR", 1, end)]);
    assert_eq!(fixture.receiver.total(), 1);
}

#[tokio::test]
async fn a_receiver_that_names_a_time_is_asked_then() {
    let (fixture, _daemon) = one("", [busy("2"), Response::ok()]).await;
    in_state(&fixture, "delivered").await;
    let requests = fixture.receiver.requests();
    let pause = requests[1].instant - requests[0].instant;
    assert!(pause >= Duration::from_secs(2), "{pause:?}");
}

#[tokio::test]
async fn a_time_beyond_the_retry_period_is_cut_to_its_end() {
    let settings = "delivery.retry_window = \"1s\"\ndelivery.max_attempts = 3";
    let (fixture, _daemon) = one(settings, [busy("86400"), Response::ok()]).await;
    holds(&in_state(&fixture, "delivered").await, doc! { "attempts": 2 });
}

#[tokio::test]
async fn a_restart_in_between_keeps_attempts_and_times() {
    let (fixture, mut daemon) = one("", [busy("3"), Response::ok()]).await;
    fixture
        .wait_for_deliveries(doc! { "state": "pending", "attempts": 1 }, 1)
        .await;
    let waiting = in_state(&fixture, "pending").await;
    assert!(daemon.stop().await.success());
    let _daemon = fixture.daemon().await;
    assert_eq!(in_state(&fixture, "pending").await, waiting);
    holds(&in_state(&fixture, "delivered").await, doc! { "attempts": 2 });
    let due = *waiting.get_datetime("due").unwrap();
    assert!(fixture.receiver.requests()[1].at >= due);
}
