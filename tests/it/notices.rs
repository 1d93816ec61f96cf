//! What the platform is told about endpoints that fail, and the suspension of those that fail for long or are gone.

mod certificates;
mod clock;
mod cut_short;
mod instances;
mod many;
mod ours;
mod page;
mod suspended;

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::sandbox::{Received, Response};
use http::StatusCode;
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::process::Command;

use crate::fixture::{Daemon, Fixture, endpoint_key, expired};
use crate::layout;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A second instead of an hour.
const QUICK: &str = "episodes=return(0);suspended-probe=return(1);look=return(1);dead-notices=return(2)";

/// The platform is told at `/platform`; days are seconds.
async fn fixture(settings: &str) -> Fixture {
    let fixture = Fixture::new().await;
    let url = fixture.receiver.url("/platform");
    let mut lines =
        format!("completions.enabled = false\nnotices.url = \"{url}\"\nnotices.secret = \"{SECRET}\"\n{settings}");
    for line in ["notices.failing_after = \"1s\"", "delivery.suspend_after = \"3s\""] {
        let (key, _) = line.split_once(' ').unwrap();
        if !settings.contains(key) {
            lines = format!("{}\n{line}", lines.trim_end());
        }
    }
    fixture.with(lines.trim_end())
}

fn command(fixture: &Fixture, failpoints: &str) -> Command {
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", format!("{QUICK};{failpoints}"));
    command
}

async fn daemon(fixture: &Fixture) -> Daemon {
    let daemon = Daemon::spawn(command(fixture, ""));
    daemon.wait_for(|line| line["message"] == "ready").await;
    daemon
}

/// It probes no suspended endpoint within a test.
async fn without_probes(fixture: &Fixture) -> Daemon {
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "episodes=return(0)");
    let daemon = Daemon::spawn(command);
    daemon.wait_for(|line| line["message"] == "ready").await;
    daemon
}

fn always(fixture: &Fixture, path: &str, status: u16) {
    let response = Response::status(StatusCode::from_u16(status).unwrap());
    fixture.receiver.script(path, [response]);
}

async fn expire(fixture: &Fixture, organization: ObjectId, certificates: usize) {
    let certificates: Vec<Document> = (0..certificates).map(|_| expired(organization)).collect();
    fixture.badge_users().insert_many(certificates).await.unwrap();
}

/// What the platform was told, by `webhook-id`, each of which it may get more than once.
fn notices(requests: &[Received]) -> BTreeMap<String, Value> {
    let told = requests.iter().filter(|request| request.path == "/platform");
    let notices = told.map(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        Webhook::new(SECRET)
            .unwrap()
            .verify(&request.body, &request.headers)
            .unwrap();
        assert_eq!(request.header("x-webhook-event"), body["type"]);
        (request.header("webhook-id").to_owned(), body)
    });
    notices.collect()
}

/// How often it was told what of that endpoint.
fn kinds(requests: &[Received], endpoint: &str) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for notice in notices(requests).values() {
        if notice["data"]["endpoint"] == endpoint {
            *kinds.entry(notice["type"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    kinds
}

fn has(requests: &[Received], endpoint: &str, kind: &str) -> bool {
    kinds(requests, endpoint).contains_key(kind)
}

fn id(endpoint: &Document) -> String {
    endpoint.get_object_id("_id").unwrap().to_hex()
}

fn accepted(requests: &[Received], path: &str) -> usize {
    let of_path = requests.iter().filter(|request| request.path == path);
    let ids = of_path.map(|request| request.header("webhook-id").to_owned());
    ids.collect::<std::collections::HashSet<_>>().len()
}

#[tokio::test]
async fn an_endpoint_that_fails_is_told_of_suspended_probed_and_recovers() {
    let fixture = fixture("").await;
    let (failing, well) = (fixture.endpoint("/failing"), fixture.endpoint("/well"));
    let organization = fixture.organization(vec![failing.clone(), well]).await;
    always(&fixture, "/failing", 500);
    expire(&fixture, organization, 30).await;
    let daemon = daemon(&fixture).await;
    let failing = id(&failing);
    fixture
        .wait_for(|requests| has(requests, &failing, "endpoint.suspended"))
        .await;
    daemon
        .wait_for(|line| line["level"] == "WARN" && line["message"].as_str().unwrap().contains("is suspended"))
        .await;
    // Probes, each with another delivery.
    let before = fixture.receiver.requests().len();
    let probes =
        fixture.wait_for(|requests| requests[before..].iter().filter(|one| one.path == "/failing").count() >= 4);
    let probes = probes.await;
    let probes: Vec<_> = probes[before..].iter().filter(|one| one.path == "/failing").collect();
    let mut ids: Vec<_> = probes.iter().skip(1).map(|probe| probe.header("webhook-id")).collect();
    ids.dedup();
    assert!(ids.len() >= 3, "{ids:?}");
    assert_eq!(
        fixture.count_deliveries(doc! { "state": "dead" }).await,
        0,
        "nothing ends meanwhile"
    );

    let page = fixture.outcome(&["status"]).await;
    assert!(page.stdout.contains("suspended: since"), "{}", page.stdout);
    always(&fixture, "/failing", 200);
    let requests = fixture
        .wait_for(|requests| has(requests, &failing, "endpoint.recovered"))
        .await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 60 + 3).await;
    assert_eq!(accepted(&requests, "/well"), 30);
    let told = kinds(&fixture.receiver.requests(), &failing);
    let expected = ["endpoint.failing", "endpoint.recovered", "endpoint.suspended"];
    assert_eq!(told, expected.map(|kind| (kind.to_owned(), 1)).into());
    for notice in notices(&requests).values() {
        let data = &notice["data"];
        assert_eq!(data["organization"], organization.to_hex());
        assert_eq!(data["name"], "/failing");
        assert_eq!(data["lastResponse"]["status"], 500, "{notice}");
        assert_eq!(data["lastResponse"]["error"], "status 500");
        assert!(
            data["since"].is_string() && data["next"].as_str().unwrap().len() > 20,
            "{notice}"
        );
        assert!(data["failures"].as_i64().unwrap() >= 10);
    }
    // Nothing is remembered of it.
    let remembered = doc! { "episode": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), remembered, 0).await;
}

#[tokio::test]
async fn a_410_suspends_and_ends_that_delivery_alone() {
    let fixture = fixture("notices.failing_after = \"15m\"").await;
    let endpoint = fixture.endpoint("/gone");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    always(&fixture, "/gone", 410);
    let daemon = daemon(&fixture).await;
    expire(&fixture, organization, 1).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let gone = id(&endpoint);
    fixture
        .wait_for(|requests| has(requests, &gone, "endpoint.suspended"))
        .await;
    expire(&fixture, organization, 5).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let of_endpoint = |state: &str| doc! { "state": state, "endpoint": format!("{organization}/{gone}") };
    let before = fixture.receiver.requests().len();
    fixture
        .wait_for(|requests| requests[before..].iter().filter(|one| one.path == "/gone").count() >= 3)
        .await;
    assert_eq!(fixture.count_deliveries(of_endpoint("dead")).await, 1);
    assert_eq!(fixture.count_deliveries(of_endpoint("pending")).await, 5);

    // Its document changes.
    always(&fixture, "/gone", 200);
    let change = doc! { "$set": { "webHookConfig.endpoints.0.name": "mended" } };
    fixture
        .member_configs()
        .update_one(doc! { "_ownerId": organization }, change)
        .await
        .unwrap();
    fixture.wait_for_deliveries(of_endpoint("delivered"), 5).await;
}

#[tokio::test]
async fn a_change_of_its_document_and_a_release_end_a_suspension() {
    for by_release in [false, true] {
        let fixture = fixture("").await;
        let endpoint = fixture.endpoint("/a");
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        always(&fixture, "/a", 410);
        let daemon = without_probes(&fixture).await;
        expire(&fixture, organization, 3).await;
        daemon.signal(nix::sys::signal::Signal::SIGUSR1);
        let key = id(&endpoint);
        fixture
            .wait_for(|requests| has(requests, &key, "endpoint.suspended"))
            .await;
        always(&fixture, "/a", 200);
        expire(&fixture, organization, 3).await;
        daemon.signal(nix::sys::signal::Signal::SIGUSR1);
        let marked = doc! { "expiryReminderSent": true };
        fixture.wait_for_count(&fixture.badge_users(), marked, 6).await;
        let of_endpoint = |state: &str| doc! { "state": state, "endpoint": format!("{organization}/{key}") };
        // The first, which got the 410.
        fixture.wait_for_deliveries(of_endpoint("dead"), 1).await;
        let pending = fixture.deliveries(of_endpoint("pending")).await.len() as u64;
        assert!(pending >= 3, "{pending}");
        if by_release {
            let released = fixture.outcome(&["release", "--endpoint", &key]).await;
            assert_eq!(released.code, Some(0), "{released:?}");
        } else {
            let change = doc! { "$set": { "webHookConfig.endpoints.0.timeout": 7000 } };
            fixture
                .member_configs()
                .update_one(doc! { "_ownerId": organization }, change)
                .await
                .unwrap();
        }
        fixture.wait_for_deliveries(of_endpoint("delivered"), pending).await;
    }
}

#[tokio::test]
async fn of_dead_letters_it_is_told_once_in_a_while_with_their_number() {
    let fixture = fixture("delivery.max_attempts = 1\ndelivery.redrive_for = \"0s\"").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    always(&fixture, "/a", 500);
    let daemon = daemon(&fixture).await;
    expire(&fixture, organization, 4).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let key = id(&endpoint);
    let sum = |requests: &[Received]| -> (usize, i64) {
        let told = notices(requests);
        let dead = told.values().filter(|notice| notice["type"] == "delivery.dead");
        let counts: Vec<_> = dead.map(|notice| notice["data"]["dead"].as_i64().unwrap()).collect();
        (counts.len(), counts.iter().sum())
    };
    fixture.wait_for(|requests| sum(requests).1 == 4).await;
    let began = std::time::Instant::now();
    expire(&fixture, organization, 3).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let requests = fixture.wait_for(|requests| sum(requests).1 == 7).await;
    assert!(began.elapsed().as_millis() > 500, "the next is told of later");
    assert!(sum(&requests).0 <= 4, "not one by one");
    let told = notices(&requests);
    let dead = told.values().find(|notice| notice["type"] == "delivery.dead").unwrap();
    assert_eq!(dead["data"]["endpoint"], key);
    assert_eq!(dead["data"]["eventType"], "certificate_expired");
    assert_eq!(dead["data"]["lastResponse"]["status"], 500);
    let event = dead["data"]["lastResponse"]["event"].as_str().unwrap();
    assert!(event.starts_with("certificate_expired_"), "{dead}");
}

#[tokio::test]
async fn of_dead_letters_that_went_out_again_meanwhile_it_is_not_told() {
    let fixture = fixture("").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let state = doc! { "_id": format!("endpoint/{}", endpoint_key(organization, &endpoint)), "deadUntold": 2_i64 };
    fixture.state().insert_one(&state).await.unwrap();
    let _daemon = daemon(&fixture).await;
    fixture.wait_for_count(&fixture.state(), state, 0).await;
    let notices = doc! { "endpoint": "all/notices" };
    assert_eq!(fixture.outbox().count_documents(notices).await.unwrap(), 0);
}

/// It is under way when it could be told of, and is not counted again when it fails.
#[tokio::test]
async fn of_a_dead_letter_that_goes_out_again_in_vain_it_is_told() {
    let fixture = fixture("delivery.max_attempts = 1").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let failure = Response::status(StatusCode::INTERNAL_SERVER_ERROR);
    fixture
        .receiver
        .script("/a", [failure.after(std::time::Duration::from_secs(3))]);
    let state = doc! { "_id": format!("endpoint/{key}"), "deadUntold": 1_i64 };
    fixture.state().insert_one(&state).await.unwrap();
    let mut letter = layout::retry(&key, &layout::expiry(1), 1);
    let died = certhookd::model::Clock::local();
    letter.extend(doc! { "due": died, "redriven": true, "redrivable": true, "deadSince": died });
    fixture.outbox().insert_one(letter).await.unwrap();
    let _daemon = daemon(&fixture).await;
    let told = |requests: &[Received]| {
        notices(requests)
            .into_values()
            .any(|notice| notice["type"] == "delivery.dead")
    };
    let requests = fixture.wait_for(told).await;
    let told = notices(&requests)
        .into_values()
        .find(|notice| notice["type"] == "delivery.dead");
    assert_eq!(told.unwrap()["data"]["eventType"], "certificate_expired");
}

#[tokio::test]
async fn a_platform_that_hangs_delays_no_delivery_and_is_not_told_of_itself() {
    let fixture = fixture("").await;
    fixture.receiver.script("/platform", [Response::silence()]);
    let (failing, well) = (fixture.endpoint("/failing"), fixture.endpoint("/well"));
    let organization = fixture.organization(vec![failing]).await;
    let other = fixture.organization(vec![well]).await;
    always(&fixture, "/failing", 500);
    let daemon = daemon(&fixture).await;
    expire(&fixture, organization, 30).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    fixture
        .wait_for(|requests| requests.iter().any(|request| request.path == "/platform"))
        .await;
    for _ in 0..3 {
        expire(&fixture, other, 20).await;
        daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    }
    fixture.wait_for(|requests| accepted(requests, "/well") == 60).await;
    let answered = fixture.receiver.requests();
    let asked = answered.iter().filter(|request| request.path == "/platform").count();
    assert!(asked <= 2, "it has not answered yet: {asked}");
    let of_notices = doc! { "_id": "episode/all/notices", "episode": { "$exists": true } };
    assert_eq!(fixture.state().count_documents(of_notices).await.unwrap(), 0);
}

#[tokio::test]
async fn without_an_address_nobody_is_told_and_suspension_works() {
    let fixture = Fixture::new()
        .await
        .with("completions.enabled = false\ndelivery.suspend_after = \"2s\"");
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    always(&fixture, "/a", 500);
    expire(&fixture, organization, 30).await;
    let _daemon = daemon(&fixture).await;
    let suspended = doc! { "episode.suspended": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), suspended, 1).await;
    let notices = doc! { "endpoint": "all/notices" };
    assert_eq!(fixture.outbox().count_documents(notices).await.unwrap(), 0);
}
