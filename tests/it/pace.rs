//! Endpoints that don't want to be sent to as fast as possible: `concurrency`, `rateLimit`, `Retry-After`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER};
use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::{Received, Response};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::fixture::{Fixture, LIMIT, expired, expired_id, expired_in_turn};

const NO_STREAM: &str = "completions.enabled = false";
const SECOND: Duration = Duration::from_secs(1);

async fn expire(fixture: &Fixture, organization: ObjectId, count: i64) {
    let certificates = expired_in_turn(organization, count);
    fixture.badge_users().insert_many(certificates).await.unwrap();
}

fn paced(fixture: &Fixture, field: &str, value: f64) -> Document {
    let mut endpoint = fixture.endpoint("/a");
    endpoint.insert(field, value);
    endpoint
}

/// The most requests that began in any second.
fn most_in_a_second(requests: &[Received]) -> usize {
    let mut at: Vec<Instant> = requests.iter().map(|request| request.instant).collect();
    at.sort_unstable();
    let within = |(place, first): (usize, &Instant)| {
        let after = at[place..].iter().take_while(|other| **other < *first + SECOND);
        after.count()
    };
    at.iter().enumerate().map(within).max().unwrap_or(0)
}

fn busy(status: StatusCode, seconds: u64) -> Response {
    Response::status(status).header(RETRY_AFTER, HeaderValue::from(seconds))
}

#[tokio::test]
async fn an_endpoint_says_how_many_requests_it_takes_at_once() {
    for (concurrency, most) in [(1.0, 1), (2.0, 2), (5.0, 5), (9.0, 5)] {
        let fixture = Fixture::new().await.with(NO_STREAM);
        let endpoint = paced(&fixture, "concurrency", concurrency);
        let organization = fixture.organization(vec![endpoint]).await;
        expire(&fixture, organization, 30).await;
        fixture
            .receiver
            .script("/a", [Response::ok().after(Duration::from_millis(30))]);
        let _daemon = fixture.daemon().await;
        fixture.receiver.wait_for_total(30, LIMIT).await.unwrap();
        assert_eq!(fixture.receiver.max_parallel("/a"), most, "{concurrency}");
    }
}

#[tokio::test]
async fn a_rate_is_kept_over_instances_and_does_not_slow_others() {
    const RATE: f64 = 40.0;
    let fixture = Fixture::new().await.with(NO_STREAM);
    let organization = fixture.organization(vec![paced(&fixture, "rateLimit", RATE)]).await;
    expire(&fixture, organization, 260).await;
    let mut first = fixture.daemon().await;
    fixture.receiver.wait_for_total(60, LIMIT).await.unwrap();
    // Its one endpoint may become the second instance's, and does when the first one ends.
    let second = fixture.daemon().await;
    fixture.receiver.wait_for_total(130, LIMIT).await.unwrap();
    let other: ObjectId = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let is_read = |line: &Value| line["message"] == "endpoints read" && line["organization"] == other.to_string();
    first.wait_for(is_read).await;
    let certificate = expired(other);
    fixture.badge_users().insert_one(certificate).await.unwrap();
    first.signal(Signal::SIGUSR1);
    fixture
        .wait_for(|requests| requests.iter().any(|request| request.path == "/other"))
        .await;
    assert!(fixture.receiver.total() < 250, "it did not wait");
    assert!(first.stop().await.success());
    let requests = fixture.wait_for(|requests| requests.len() > 260).await;
    drop(second);
    let paced: Vec<_> = requests.into_iter().filter(|request| request.path == "/a").collect();
    let most = most_in_a_second(&paced);
    assert!(most <= 42, "{most} in a second");
    assert!(most >= 36, "{most} in a second");
}

#[tokio::test]
async fn rates_of_all_kinds_are_kept() {
    for (rate, count, most) in [(0.5, 2, 1), (1.5, 4, 2), (7.0, 20, 8), (1e300, 300, 301)] {
        let fixture = Fixture::new().await.with(NO_STREAM);
        let organization = fixture.organization(vec![paced(&fixture, "rateLimit", rate)]).await;
        expire(&fixture, organization, count).await;
        let _daemon = fixture.daemon().await;
        let requests = fixture.wait_for(|requests| requests.len() as i64 == count).await;
        let found = most_in_a_second(&requests);
        assert!(found <= most, "{rate}: {found} in a second");
    }
}

/// After a rate that was far too low is corrected, its end is not waited for.
#[tokio::test]
async fn a_rate_that_is_raised_or_taken_away_holds_at_once() {
    for rate in [Some(100.0), None] {
        let fixture = Fixture::new().await.with(NO_STREAM);
        let organization = fixture.organization(vec![paced(&fixture, "rateLimit", 0.000_1)]).await;
        expire(&fixture, organization, 3).await;
        let _daemon = fixture.daemon().await;
        fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
        let set = match rate {
            Some(rate) => doc! { "$set": { "webHookConfig.endpoints.0.rateLimit": rate } },
            None => doc! { "$unset": { "webHookConfig.endpoints.0.rateLimit": 1 } },
        };
        let ours = doc! { "_ownerId": organization };
        fixture.member_configs().update_one(ours, set).await.unwrap();
        fixture.wait_for_deliveries(doc! { "state": "delivered" }, 3).await;
    }
}

/// Nobody sends anything before the time is over that the first response asked for.
fn assert_paused(requests: &[Received], pause: Duration) {
    let first = requests[0].instant;
    for request in &requests[1..] {
        let after = request.instant.duration_since(first);
        assert!(after >= pause, "{after:?} after the first");
    }
}

/// An endpoint of which one delivery was attempted, and whose pause is noted; and a second delivery.
async fn paused(fixture: &Fixture, response: Response) -> ObjectId {
    fixture.receiver.script("/a", [response, Response::ok()]);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    expire(fixture, organization, 1).await;
    organization
}

async fn wait_until_noted(fixture: &Fixture) {
    let noted = doc! { "_id": { "$regex": "^endpoint/" }, "slowedUntil": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), noted, 1).await;
    fixture.wait_for_deliveries(doc! { "attempts": 1 }, 1).await;
}

#[tokio::test]
async fn retry_after_holds_for_the_endpoint() {
    for status in [429, 503] {
        let fixture = Fixture::new().await.with(NO_STREAM);
        let status = StatusCode::from_u16(status).unwrap();
        let organization = paused(&fixture, busy(status, 2)).await;
        let daemon = fixture.daemon().await;
        wait_until_noted(&fixture).await;
        expire(&fixture, organization, 5).await;
        daemon.signal(Signal::SIGUSR1);
        let requests = fixture.wait_for(|requests| requests.len() == 7).await;
        assert_paused(&requests, SECOND * 2);
    }
}

#[tokio::test]
async fn retry_after_holds_after_a_crash_and_a_restart() {
    let fixture = Fixture::new().await.with(NO_STREAM);
    let organization = paused(&fixture, busy(StatusCode::TOO_MANY_REQUESTS, 6)).await;
    let mut daemon = fixture.daemon().await;
    wait_until_noted(&fixture).await;
    daemon.signal(Signal::SIGKILL);
    daemon.ended().await;
    expire(&fixture, organization, 5).await;
    let _daemon = fixture.daemon().await;
    let requests = fixture.wait_for(|requests| requests.len() == 7).await;
    assert_paused(&requests, SECOND * 6);
}

#[tokio::test]
async fn retry_after_holds_for_the_instance_that_takes_over() {
    let fixture = Fixture::new().await.with(NO_STREAM);
    let organization = paused(&fixture, busy(StatusCode::SERVICE_UNAVAILABLE, 6)).await;
    let mut first = fixture.daemon().await;
    wait_until_noted(&fixture).await;
    let second = fixture.daemon().await;
    assert!(first.stop().await.success());
    expire(&fixture, organization, 5).await;
    second.signal(Signal::SIGUSR1);
    let requests = fixture.wait_for(|requests| requests.len() == 7).await;
    assert_paused(&requests, SECOND * 6);
}

#[tokio::test]
async fn retry_after_holds_to_the_end_of_the_retry_period_at_most() {
    let fixture = Fixture::new().await.with(&format!(
        "{NO_STREAM}\ndelivery.retry_window = \"2s\"\ndelivery.max_attempts = 3"
    ));
    let organization = paused(&fixture, busy(StatusCode::SERVICE_UNAVAILABLE, 3_600)).await;
    let daemon = fixture.daemon().await;
    wait_until_noted(&fixture).await;
    expire(&fixture, organization, 5).await;
    daemon.signal(Signal::SIGUSR1);
    let requests = fixture.wait_for(|requests| requests.len() == 7).await;
    assert_paused(&requests, SECOND * 2 - Duration::from_millis(100));
}

#[tokio::test]
async fn a_pause_that_mongodb_refuses_holds_no_result_up() {
    let fixture = Fixture::new().await.with(NO_STREAM);
    let organization = paused(&fixture, busy(StatusCode::TOO_MANY_REQUESTS, 2)).await;
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
    let refuse = doc! { "collMod": fixture.state().name(), "validator": { "slowedUntil": { "$exists": false } } };
    fixture
        .state()
        .delete_many(doc! { "slowedUntil": { "$exists": true } })
        .await
        .unwrap();
    fixture.database.run_command(refuse).await.unwrap();
    fixture
        .receiver
        .script("/a", [busy(StatusCode::TOO_MANY_REQUESTS, 1), Response::ok()]);
    expire(&fixture, organization, 3).await;
    daemon.signal(Signal::SIGUSR1);
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 4).await;
    let told = |line: &Value| {
        line["message"]
            .as_str()
            .is_some_and(|message| message.contains("Retry-After"))
    };
    daemon.wait_for(told).await;
    assert!(daemon.stop().await.success());
}

/// A receiver that says 503 to one event and asks for 3 s, however often; it takes 20 ms for any other, and notes when it came.
async fn receiver_that_hates(event_id: String) -> (String, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let liked = Arc::<Mutex<Vec<Instant>>>::default();
    let came = Arc::clone(&liked);
    let respond = move |headers: HeaderMap, _: Bytes| {
        let is_hated = headers["webhook-id"] == *event_id;
        if !is_hated {
            came.lock().push(Instant::now());
        }
        async move {
            if is_hated {
                return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "3")]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            (StatusCode::OK, [(RETRY_AFTER, "")])
        }
    };
    let router = Router::new().fallback(respond);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/"), liked)
}

#[tokio::test]
async fn one_payload_that_always_gets_a_503_does_not_stop_the_others() {
    let fixture = Fixture::new().await.with(NO_STREAM);
    let mut endpoint = fixture.endpoint("/unused");
    let organization = ObjectId::new();
    let certificates = expired_in_turn(organization, 600);
    let (url, liked) = receiver_that_hates(expired_id(&certificates[0])).await;
    endpoint.insert("url", url);
    let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": [endpoint] } };
    fixture.member_configs().insert_one(config).await.unwrap();
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let _daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 599).await;
    let hated = fixture.deliveries(doc! { "state": "pending" }).await;
    assert!(hated[0].get_i32("attempts").unwrap() >= 2, "it came again meanwhile");
    let longest = liked.lock().windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(
        longest < Duration::from_millis(2_500),
        "the others waited for {longest:?}"
    );
}
