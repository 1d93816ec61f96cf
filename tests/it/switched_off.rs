//! Endpoints that fail, with much waiting for them, and are then switched off: it is cancelled in bulk, and nothing of their
//! failures is left.

use std::net::SocketAddr;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::Response;
use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, LIMIT, endpoint_key, expired, expired_in_turn, pending_batch};
use crate::web::{LISTEN, address, get};

const NO_STREAM: &str = "completions.enabled = false";

fn is_probed(line: &Value) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|text| text.contains("it is probed"))
}

fn failing(fixture: &Fixture, path: &str) -> Document {
    let failure = [Response::status(StatusCode::SERVICE_UNAVAILABLE)];
    fixture.receiver.script(path, failure);
    fixture.endpoint(path)
}

async fn change(fixture: &Fixture, organization: ObjectId, change: Document) {
    let of = doc! { "_ownerId": organization };
    fixture.member_configs().update_one(of, change).await.unwrap();
}

fn switched(on: bool) -> Document {
    doc! { "$set": { "webHookConfig.endpoints.0.enabled": on } }
}

/// An event of that organization is delivered.
async fn delivers(fixture: &Fixture, daemon: &Daemon, organization: ObjectId, path: &str) {
    let before = fixture.receiver.count(path);
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    let of_path = |requests: &[certhookd::sandbox::Received]| requests.iter().filter(|one| one.path == path).count();
    fixture.wait_for(|requests| of_path(requests) > before).await;
}

const BREAKERS: &str = "breakers_open";
const SERVED: &str = "endpoints{state=\"served\"}";

async fn metric(address: SocketAddr, name: &str) -> String {
    let metrics = get(address, "/metrics").await.body;
    let prefix = format!("certhookd_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&*prefix));
    value.unwrap().to_owned()
}

/// Asks again and again: a change of an endpoint is told of before all of it is in effect.
async fn until(address: SocketAddr, name: &str, value: &str) {
    let reached = async { while metric(address, name).await != value {} };
    tokio::time::timeout(LIMIT, reached).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_failing_endpoint_is_cancelled_in_bulk_when_it_is_switched_off() {
    const WAITING: i64 = 3000;
    let fixture = Fixture::new().await.with(&format!("{NO_STREAM}\n{LISTEN}"));
    let endpoint = failing(&fixture, "/failing");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let key = endpoint_key(organization, &endpoint);
    // Documents of their own, as retries are: there is most to write.
    let certificates = expired_in_turn(organization, WAITING);
    let waiting = certificates.chunks(1).map(|one| pending_batch(&key, one));
    fixture.outbox().insert_many(waiting).await.unwrap();
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    daemon.wait_for(is_probed).await;
    assert_eq!(metric(address, BREAKERS).await, "1");

    let commands = doc! { "command.update": "webhook_outbox" };
    fixture.profile(&commands).await;
    change(&fixture, organization, switched(false)).await;
    let cancelled = doc! { "endpoint": &key, "state": "cancelled" };
    let all = fixture.wait_for_deliveries(cancelled, WAITING as u64);
    let others = async {
        for _ in 0..10 {
            delivers(&fixture, &daemon, other, "/other").await;
        }
    };
    tokio::join!(all, others);
    let commands = fixture.profiled(&commands).await.len();
    assert!(commands < 100, "{commands} commands");
    until(address, BREAKERS, "0").await;

    fixture.receiver.script("/failing", [Response::ok()]);
    change(&fixture, organization, switched(true)).await;
    until(address, SERVED, "2").await;
    delivers(&fixture, &daemon, organization, "/failing").await;
    assert_eq!(daemon.count(is_probed), 1);
}

/// Each delivery has one attempt: nothing waits when the endpoint is switched off, deleted, or its document is.
#[tokio::test]
async fn the_breaker_of_an_endpoint_for_which_nothing_waits_goes_with_it() {
    let once = "delivery.max_attempts = 1\ndelivery.redrive_for = \"0s\"";
    let fixture = Fixture::new().await.with(&format!("{NO_STREAM}\n{LISTEN}\n{once}"));
    let mut organizations = Vec::new();
    for path in ["/off", "/deleted", "/missing"] {
        let organization = fixture.organization(vec![failing(&fixture, path)]).await;
        let certificates = expired_in_turn(organization, 12);
        fixture.badge_users().insert_many(certificates).await.unwrap();
        organizations.push(organization);
    }
    let [off, deleted, missing] = organizations[..] else {
        unreachable!()
    };
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    fixture.wait_for_deliveries(doc! { "state": "dead" }, 36).await;
    assert_eq!(metric(address, BREAKERS).await, "3");

    change(&fixture, off, switched(false)).await;
    change(&fixture, deleted, doc! { "$set": { "webHookConfig.endpoints": [] } }).await;
    let gone = doc! { "_ownerId": missing };
    let configuration = fixture.member_configs().find_one_and_delete(gone).await.unwrap();
    delivers(&fixture, &daemon, other, "/other").await;
    until(address, BREAKERS, "0").await;

    fixture
        .member_configs()
        .insert_one(configuration.unwrap())
        .await
        .unwrap();
    change(&fixture, off, switched(true)).await;
    until(address, SERVED, "3").await;
    for (organization, path) in [(off, "/off"), (missing, "/missing")] {
        fixture.receiver.script(path, [Response::ok()]);
        fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    }
    daemon.signal(Signal::SIGUSR1);
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 3)
        .await;
    assert_eq!(daemon.count(is_probed), 3);
}
